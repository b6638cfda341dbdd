// JSON as text. The host keeps every digit of a number, and `JSON.parse` does not: what people see, edit
// and send back is therefore never parsed into numbers.

export interface Token {
  kind: "key" | "string" | "number" | "word" | "mark" | "space";
  text: string;
}

const TOKEN = /\s+|"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[{}[\],:]/gy;

/** The tokens of a JSON text; none if it has anything else. */
export function tokens(text: string): Token[] | null {
  const found: Token[] = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const match = TOKEN.exec(text);
    if (!match) return null;
    found.push({ kind: kindOf(match[0]), text: match[0] });
  }
  found.forEach((token, place) => {
    if (token.kind !== "string") return;
    let next = place + 1;
    while (found[next]?.kind === "space") next += 1;
    if (found[next]?.text === ":") token.kind = "key";
  });
  return found;
}

function kindOf(text: string): Token["kind"] {
  const first = text.charAt(0);
  if (first === '"') return "string";
  if ("{}[],:".includes(first)) return "mark";
  if (first === "-" || (first >= "0" && first <= "9")) return "number";
  return /\s/.test(first) ? "space" : "word";
}

/** A JSON text with a line for each member; other text stays as it is. */
export function pretty(text: string): string {
  const all = tokens(text)?.filter((token) => token.kind !== "space");
  if (!all) return text;
  let out = "";
  let depth = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  all.forEach((token, place) => {
    const before = all[place - 1]?.text;
    const mark = token.kind === "mark" ? token.text : "";
    if (mark === "}" || mark === "]") {
      depth = Math.max(0, depth - 1);
      if (before !== "{" && before !== "[") out += line();
    } else if (before === "{" || before === "[") {
      out += line();
    }
    out += token.text;
    if (mark === "{" || mark === "[") depth += 1;
    else if (mark === ",") out += line();
    else if (mark === ":") out += " ";
  });
  return out;
}

/**
 * The text of a member of a JSON object, as it was sent: `raw('{"a":{"b":1.0}}', "a", "b")` is `1.0`.
 * Indexes of arrays are names, too.
 */
export function raw(text: string, ...path: string[]): string | null {
  const all = tokens(text)?.filter((token) => token.kind !== "space");
  if (!all) return null;
  let [start, end] = [0, all.length];
  for (const name of path) {
    const found = member(all, start, name);
    if (!found) return null;
    [start, end] = found;
  }
  return all
    .slice(start, end)
    .map((token) => token.text)
    .join("");
}

/** Where the value of a member of the value at `start` begins and ends. */
function member(all: Token[], start: number, name: string): [number, number] | null {
  const open = all[start]?.text;
  if (open !== "{" && open !== "[") return null;
  let place = start + 1;
  for (let index = 0; place < all.length && !"}]".includes(all[place]!.text); index += 1) {
    let found = String(index);
    if (open === "{") {
      found = JSON.parse(all[place]!.text) as string;
      place += 2;
    }
    const end = valueEnd(all, place);
    if (found === name) return [place, end];
    place = all[end]?.text === "," ? end + 1 : end;
  }
  return null;
}

function valueEnd(all: Token[], start: number): number {
  let depth = 0;
  for (let place = start; place < all.length; place += 1) {
    const mark = all[place]!.kind === "mark" ? all[place]!.text : "";
    if (mark === "{" || mark === "[") depth += 1;
    if (mark === "}" || mark === "]") depth -= 1;
    if (depth === 0) return place + 1;
  }
  return all.length;
}

/** Why a text is no JSON; none if it is. */
export function jsonProblem(text: string): string | null {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Whether two JSON texts have the same tokens. */
export function sameJson(left: string, right: string): boolean {
  return pretty(left) === pretty(right);
}

/** The texts of the elements of an array in a JSON text. */
export function rawElements(text: string, ...path: string[]): string[] {
  const list = raw(text, ...path);
  const all = list === null ? null : tokens(list)?.filter((token) => token.kind !== "space");
  if (!all || all[0]?.text !== "[") return [];
  const found: string[] = [];
  let place = 1;
  while (place < all.length && all[place]!.text !== "]") {
    const end = valueEnd(all, place);
    found.push(
      all
        .slice(place, end)
        .map((token) => token.text)
        .join(""),
    );
    place = all[end]?.text === "," ? end + 1 : end;
  }
  return found;
}
