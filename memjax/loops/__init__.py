"""Plans for loops: a scan that stacks and the scans that read it are one thing to plan.

In: a `Program` and a target for its peak. Out: decisions about its loops, and the `Program` that
they make.

`pairs` finds them, `residuals` chooses what is stacked, `transform` writes the new loops (with
`builder` and `iteration`), `menu` prices the ways to do so, `choose` picks among them together
with what happens in bodies and in the straight part, `decisions` keeps what was decided, and
`notes` says it in words.
"""
