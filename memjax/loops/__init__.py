"""Plans for loops: a scan that stacks and the scans that read it are one thing to plan.

`pairs` finds them, `residuals` chooses what is stacked, `transform` writes the new loops (with
`builder` and `iteration`), `menu` prices the ways to do so, `choose` picks among them together
with what happens in bodies and in the straight part, `decisions` keeps what was decided, and
`notes` says it in words.
"""
