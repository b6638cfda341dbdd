// Numbers, times and names as people read them.

/** `1,234`; no number: a dash. */
export function count(value: number | null | undefined): string {
  return value == null ? "–" : value.toLocaleString("en-US");
}

/** A duration: `0.4 ms`, `12 ms`, `1.25 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms: number | null | undefined): string {
  if (ms == null || Number.isNaN(ms)) return "–";
  if (ms < 0) return `-${duration(-ms)}`;
  if (ms === 0) return "0 ms";
  if (ms < 9.95) return `${ms < 0.1 ? ms.toFixed(2) : ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9_995 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return parts(Math.floor(seconds / 60), "min", seconds % 60, "s");
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1440) return parts(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.floor(minutes / 60);
  return parts(Math.floor(hours / 24), "d", hours % 24, "h");
}

function parts(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

/** A time as seen from now: `now`, `12 s ago`, `in 3 min`, `2 d ago`. */
export function relative(at: number, now: number): string {
  const seconds = Math.round(Math.abs(now - at) / 1000);
  if (seconds < 1) return "now";
  const [size, unit] =
    seconds < 60
      ? [1, "s"]
      : seconds < 3600
        ? [60, "min"]
        : seconds < 86_400
          ? [3600, "h"]
          : ([86_400, "d"] as const);
  const text = `${Math.floor(seconds / (size as number))} ${unit}`;
  return at > now ? `in ${text}` : `${text} ago`;
}

const pad = (value: number, width = 2) => String(value).padStart(width, "0");

/** A time in the reader's zone, to the millisecond: `2026-11-29 14:03:07.120 +01:00`. */
export function exact(at: number): string {
  const date = new Date(at);
  const zone = -date.getTimezoneOffset();
  const offset = `${zone < 0 ? "-" : "+"}${pad(Math.floor(Math.abs(zone) / 60))}:${pad(Math.abs(zone) % 60)}`;
  return `${day(date)} ${clock(at)} ${offset}`;
}

function day(date: Date): string {
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

/** The time of the day: `14:03:07.120`. */
export function clock(at: number): string {
  const date = new Date(at);
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;
}

/** A rate per second: `0`, `0.42/s`, `12/s`, `1,204/s`. */
export function rate(perSecond: number | null | undefined): string {
  if (perSecond == null) return "–";
  if (perSecond === 0) return "0/s";
  if (perSecond < 0.01) return "<0.01/s";
  if (perSecond < 10) return `${perSecond.toFixed(perSecond < 1 ? 2 : 1)}/s`;
  return `${count(Math.round(perSecond))}/s`;
}

/** A size: `812 B`, `1.5 KiB`, `3.0 MiB`. */
export function bytes(value: number): string {
  if (value < 1024) return `${value} B`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let size = value / 1024;
  let unit = 0;
  while (size >= 1024 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} ${units[unit]}`;
}

/** The first digits of a digest, as `git` shows commits. */
export function shortDigest(digest: string | null | undefined): string {
  return digest ? digest.slice(0, 8) : "–";
}

/** `1 order`, `2 orders`. */
export function plural(amount: number, one: string, many = `${one}s`): string {
  return `${count(amount)} ${amount === 1 ? one : many}`;
}

/** `order` as the start of a line: `Order`. */
export function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** The id in the key of a subject: `order/a/b` is the order `a/b`. */
export function splitKey(key: string): { kind: string; id: string } {
  const slash = key.indexOf("/");
  return slash < 0 ? { kind: "", id: key } : { kind: key.slice(0, slash), id: key.slice(slash + 1) };
}
