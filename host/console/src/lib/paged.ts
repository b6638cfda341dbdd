// Lists that are read page by page while their beginning changes.

/** Puts a new first page before what is known. Without an overlap there may be a gap: all is dropped. */
export function mergeNewest<T>(fresh: T[], known: T[], idOf: (one: T) => string): T[] | null {
  if (known.length === 0) return fresh;
  const ids = new Set(fresh.map(idOf));
  if (!known.some((one) => ids.has(idOf(one)))) return null;
  return [...fresh, ...known.filter((one) => !ids.has(idOf(one)))];
}

/** Adds an older page, without what is known already. */
export function appendOlder<T>(known: T[], older: T[], idOf: (one: T) => string): T[] {
  const ids = new Set(known.map(idOf));
  return [...known, ...older.filter((one) => !ids.has(idOf(one)))];
}
