"use strict";
/* What is drawn, computed from the page's data; knows nothing of the document.

   data.values: columns, one entry a value: bytes, and indices of texts for what, line, module,
   phase, decision. Values from data.throughout on are held for the whole step.
   data.views: schedules. bytes and phase by position; held: copies as half-open [start, stop).
*/
const MOST_AREAS = 12, NUMBERED_AREAS = 8;
const SEEN = 0.0005; // areas that never reach this part of the peak are not drawn
const REST = "others", UNMATCHED = "not matching", WORKSPACE = "workspace";

function makeModel(data) {
  const { values, texts } = data;
  const count = values.bytes.length;
  const text = (column, value) => texts[values[column][value]];

  /* Module paths two names deep. Where there are too many, numbered ones go together:
     `GPT/block_0` to `GPT/block_9` are `GPT/block_0 to 9`. */
  function shortened(paths) {
    const cut = paths.map(path => path.split("/").slice(0, 2).join("/"));
    const names = new Set(cut), highest = new Map();
    if (names.size <= MOST_AREAS) return cut;
    for (const name of names) {
      const [, stem, number] = name.match(/^(.*?)(\d+)$/) || [];
      if (stem) highest.set(stem, Math.max(highest.get(stem) || 0, Number(number)));
    }
    const together = new Map([...names].map(name => {
      const [, stem, number] = name.match(/^(.*?)(\d+)$/) || [];
      const size = stem ? Math.ceil((highest.get(stem) + 1) / NUMBERED_AREAS) : 1;
      if (size === 1) return [name, name];
      const first = Math.floor(number / size) * size;
      return [name, `${stem}${first} to ${Math.min(first + size - 1, highest.get(stem))}`];
    }));
    return cut.map(name => together.get(name));
  }

  /* The area that each value belongs to. */
  const labels = new Map();
  function labelsBy(by) {
    if (!labels.has(by)) {
      const own = values[by].map(index => texts[index]);
      labels.set(by, by === "module" ? shortened(own) : own);
    }
    return labels.get(by);
  }

  const label = (by, value) => labelsBy(by)[value];

  /* Which values match every word of a query, and belong to one area (null: any). A word
     matches where a text of the value has it, so each text is searched once a word. */
  const searched = ["what", "line", "module", "phase", "decision"].map(column => values[column]);
  function matching(query, by, area) {
    const found = new Uint8Array(count).fill(1);
    if (area !== null) {
      const areas = labelsBy(by);
      for (let value = 0; value < count; value++) if (areas[value] !== area) found[value] = 0;
    }
    for (const word of query.toLowerCase().split(/\s+/).filter(Boolean)) {
      const has = texts.map(name => name.toLowerCase().includes(word));
      for (let value = 0; value < count; value++) {
        if (found[value] && !searched.some(column => has[column[value]])) found[value] = 0;
      }
    }
    return found;
  }

  const forEachHeld = (view, visit) => {
    const { value, start, stop } = view.held;
    for (let i = 0; i < value.length; i++) visit(value[i], start[i], stop[i]);
    for (let i = data.throughout; i < count; i++) visit(i, 0, view.bytes.length);
  };

  /* Areas of one view: name and bytes at each position, the largest ones first. */
  function areas(view, by, matches) {
    const length = view.bytes.length;
    const weights = new Map(), label = labelsBy(by);
    forEachHeld(view, (value, start, stop) => {
      if (!matches[value]) return;
      const name = label[value];
      weights.set(name, (weights.get(name) || 0) + values.bytes[value] * (stop - start));
    });
    const ranked = [...weights.keys()].sort((a, b) => weights.get(b) - weights.get(a));
    const named = ranked.length > MOST_AREAS ? ranked.slice(0, MOST_AREAS - 1) : ranked;
    const names = [UNMATCHED, ...named, REST, WORKSPACE];
    const index = new Map(names.map((name, i) => [name, i]));
    const held = names.map(() => new Float64Array(length + 1));
    forEachHeld(view, (value, start, stop) => {
      const name = matches[value] ? label[value] : UNMATCHED;
      const of = held[index.has(name) ? index.get(name) : index.get(REST)];
      of[start] += values.bytes[value];
      of[stop] -= values.bytes[value];
    });
    for (const of of held) for (let p = 1; p <= length; p++) of[p] += of[p - 1];
    const workspace = held[names.length - 1];
    for (let p = 0; p < length; p++) {
      let sum = 0;
      for (let i = 0; i < names.length - 1; i++) sum += held[i][p];
      workspace[p] = Math.max(0, view.bytes[p] - sum);
    }
    const seen = SEEN * view.bytes[peakOf(view)];
    return names
      .map((name, i) => ({ name, rank: named.indexOf(name), bytes: held[i] }))
      .filter(area => area.bytes.some(bytes => bytes > seen));
  }

  /* The position that holds most in each of at most `most` bins of [from, to). */
  function bins(view, from, to, most) {
    const size = Math.max(1, (to - from) / most);
    const starts = [], peaks = [];
    for (let left = from; left < to; left += size) {
      const first = Math.floor(left), last = Math.min(to, Math.max(first + 1, Math.floor(left + size)));
      let best = first;
      for (let p = first + 1; p < last; p++) if (view.bytes[p] > view.bytes[best]) best = p;
      starts.push(first);
      peaks.push(best);
    }
    return { starts, peaks };
  }

  /* The values held somewhere in [from, to) that match, each once. */
  function valuesIn(view, from, to, matches) {
    const seen = new Uint8Array(count), found = [];
    forEachHeld(view, (value, start, stop) => {
      if (matches[value] && !seen[value] && start < to && stop > from) {
        seen[value] = 1;
        found.push(value);
      }
    });
    return found;
  }

  /* The largest value of an area that is held at a position; -1 without one. */
  function largestAt(view, position, belongs) {
    let best = -1;
    forEachHeld(view, (value, start, stop) => {
      if (start > position || stop <= position || !belongs(value)) return;
      if (best < 0 || values.bytes[value] > values.bytes[best]) best = value;
    });
    return best;
  }

  /* The value that the node at a position writes; -1 where it writes none. */
  function writtenAt(view, position) {
    return view.held.value[view.held.start.indexOf(position)] ?? -1;
  }

  /* The first position that holds most; found once a view. */
  const peaks = new Map();
  function peakOf(view) {
    if (!peaks.has(view)) {
      let best = 0;
      for (let p = 1; p < view.bytes.length; p++) if (view.bytes[p] > view.bytes[best]) best = p;
      peaks.set(view, best);
    }
    return peaks.get(view);
  }

  return { areas, bins, label, largestAt, matching, peakOf, text, valuesIn, writtenAt };
}

function formatBytes(count) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (Math.abs(count) < 1024) return unit === "B" ? `${Math.round(count)} B` : `${count.toFixed(1)} ${unit}`;
    count /= 1024;
  }
  return `${count.toFixed(1)} TiB`;
}
