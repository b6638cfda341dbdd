// The difference of two texts by lines.

export interface DiffLine {
  kind: "same" | "removed" | "added";
  text: string;
}

/** Lines beyond which texts are not compared line by line: the table would be too large. */
const LINES_MAX = 2_000;

/** What has to be removed from `before`, and added, to get `after`. */
export function diffLines(before: string, after: string): DiffLine[] {
  const [left, right] = [before.split("\n"), after.split("\n")];
  let head = 0;
  while (head < left.length && head < right.length && left[head] === right[head]) head += 1;
  let tail = 0;
  const rest = Math.min(left.length, right.length) - head;
  while (tail < rest && left.at(-1 - tail) === right.at(-1 - tail)) tail += 1;
  return [
    ...left.slice(0, head).map(line("same")),
    ...changed(left.slice(head, left.length - tail), right.slice(head, right.length - tail)),
    ...left.slice(left.length - tail).map(line("same")),
  ];
}

const line = (kind: DiffLine["kind"]) => (text: string) => ({ kind, text });

/** By the longest common subsequence. */
function changed(left: string[], right: string[]): DiffLine[] {
  if (left.length * right.length > LINES_MAX * LINES_MAX) {
    return [...left.map(line("removed")), ...right.map(line("added"))];
  }
  const width = right.length + 1;
  const common = new Uint32Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i -= 1) {
    for (let j = right.length - 1; j >= 0; j -= 1) {
      common[i * width + j] =
        left[i] === right[j]
          ? common[(i + 1) * width + j + 1]! + 1
          : Math.max(common[(i + 1) * width + j]!, common[i * width + j + 1]!);
    }
  }
  const out: DiffLine[] = [];
  let [i, j] = [0, 0];
  while (i < left.length && j < right.length) {
    if (left[i] === right[j]) {
      out.push({ kind: "same", text: left[i]! });
      i += 1;
      j += 1;
    } else if (common[(i + 1) * width + j]! >= common[i * width + j + 1]!) {
      out.push({ kind: "removed", text: left[i++]! });
    } else {
      out.push({ kind: "added", text: right[j++]! });
    }
  }
  return [
    ...out,
    ...left.slice(i).map(line("removed")),
    ...right.slice(j).map(line("added")),
  ];
}

/** Leaves out unchanged lines that are far from a change; a gap has the number of its lines. */
export function withContext(lines: DiffLine[], context = 3): (DiffLine | { gap: number })[] {
  const near = lines.map((_, place) =>
    lines.slice(Math.max(0, place - context), place + context + 1).some((one) => one.kind !== "same"),
  );
  const out: (DiffLine | { gap: number })[] = [];
  lines.forEach((one, place) => {
    const last = out.at(-1);
    if (near[place]) out.push(one);
    else if (last && "gap" in last) last.gap += 1;
    else out.push({ gap: 1 });
  });
  return out;
}
