// Where the console and the API are. Both follow from the address of this script, so the console works
// below any prefix, also behind a proxy that removes it.

/** The addresses that follow from `<prefix>/console/assets/console-….js`. */
export function placesOf(script: string): { console: string; api: string } {
  const folder = new URL("../", script);
  return { console: folder.pathname, api: new URL("../", folder).pathname };
}

const script =
  typeof document === "undefined" ? null : (document.currentScript as HTMLScriptElement | null);
const places = placesOf(script?.src ?? "http://localhost/console/assets/console.js");

/** Path of the console, with a slash at its end: `/console/`. */
export const CONSOLE = places.console;
/** Path of the API, with a slash at its end: `/`. */
export const API = places.api;
