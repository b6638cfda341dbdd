// The address of the page is the state of the console: a view, what is open in it, and its filters.

import { signal } from "@preact/signals";
import { CONSOLE } from "./base.ts";

/** The views, in the order of the navigation. */
export const VIEWS = ["pipeline", "orders", "events", "dead-letters", "plugins", "system"] as const;
export type View = (typeof VIEWS)[number];

export interface Route {
  view: View | "unknown";
  /** What is open in the view, such as an order's id. */
  id: string | null;
  /** Filters and the like; empty ones are left out. */
  query: Record<string, string>;
}

/** The route of a path below the console, such as `orders/7`, with its query. */
export function parseRoute(path: string, search: string): Route {
  const [first = "", ...rest] = path.replace(/^\/+|\/+$/g, "").split("/");
  const query: Record<string, string> = {};
  for (const [key, value] of new URLSearchParams(search)) if (value !== "") query[key] = value;
  const id = rest.length > 0 ? decoded(rest.join("/")) : null;
  if (first === "") return { view: "pipeline", id: null, query };
  const view = VIEWS.find((name) => name === first);
  return { view: view ?? "unknown", id, query };
}

/** The path below the console, with its query. */
export function formatRoute(view: View, id?: string | null, query: Query = {}): string {
  const path = view === "pipeline" && !id ? "" : view + (id ? `/${encodeURIComponent(id)}` : "");
  const pairs = Object.entries(query).filter(([, value]) => value) as [string, string][];
  const search = new URLSearchParams(pairs).toString();
  return path + (search ? `?${search}` : "");
}

export type Query = Record<string, string | null | undefined>;

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function current(): Route {
  const path = location.pathname;
  const below = path.startsWith(CONSOLE) ? path.slice(CONSOLE.length) : "";
  return parseRoute(below, location.search);
}

/** Where the console is now. */
export const route = signal<Route>(
  typeof location === "undefined" ? { view: "pipeline", id: null, query: {} } : current(),
);

/** The address of a route, for links. */
export function href(view: View, id?: string | null, query?: Query): string {
  return CONSOLE + formatRoute(view, id, query);
}

/** Opens an address of the console. */
export function navigate(address: string, how: "push" | "replace" = "push"): void {
  if (how === "push") history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  route.value = current();
}

/** Changes filters of the present view and keeps what is open. */
export function setQuery(changes: Query, how: "push" | "replace" = "replace"): void {
  const { view, id, query } = route.peek();
  if (view !== "unknown") navigate(href(view, id, { ...query, ...changes }), how);
}

/** Follows links and the browser's history without loading a page. */
export function startRouter(): void {
  addEventListener("popstate", () => (route.value = current()));
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    if (!link || link.target || link.origin !== location.origin) return;
    if (!link.pathname.startsWith(CONSOLE)) return;
    event.preventDefault();
    const address = link.pathname + link.search;
    if (address !== location.pathname + location.search) navigate(address);
  });
}
