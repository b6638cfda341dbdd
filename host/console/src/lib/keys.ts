// Keyboard control. Keys of the list work on links with `data-row`, so Enter needs no code.

import { signal } from "@preact/signals";
import { href, navigate, route, type View } from "./router.ts";

/** Whether the page with all keys is open. */
export const helpOpen = signal(false);

/** Second keys after `g`. */
export const GO: Record<string, View> = {
  p: "pipeline",
  o: "orders",
  e: "events",
  d: "dead-letters",
  l: "plugins",
  s: "system",
};

export const KEYS: [string, string][] = [
  ["/", "Search"],
  ["j  k", "Next and previous row"],
  ["Enter", "Open the row"],
  ["Esc", "Close what is open"],
  ["g p", "Pipeline"],
  ["g o", "Orders"],
  ["g e", "Events"],
  ["g d", "Dead letters"],
  ["g l", "Plugins"],
  ["g s", "System"],
  ["t", "Light or dark"],
  ["?", "This page"],
];

/** How long `g` waits for its second key, milliseconds. */
const CHORD_MS = 1_200;

export function startKeys(toggleTheme: () => void): void {
  let goUntil = 0;
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const target = event.target as HTMLElement;
    if (isTyping(target)) {
      if (event.key === "Escape") target.blur();
      return;
    }
    const handled = act(event.key);
    if (handled) event.preventDefault();
  });

  function act(key: string): boolean {
    if (Date.now() < goUntil) {
      goUntil = 0;
      const view = GO[key];
      if (!view) return false;
      navigate(href(view));
      return true;
    }
    switch (key) {
      case "g":
        goUntil = Date.now() + CHORD_MS;
        return true;
      case "/":
        return search();
      case "j":
        return move(1);
      case "k":
        return move(-1);
      case "?":
        helpOpen.value = true;
        return true;
      case "t":
        toggleTheme();
        return true;
      case "Escape":
        return close();
      default:
        return false;
    }
  }
}

function isTyping(target: HTMLElement): boolean {
  if (target.isContentEditable || target.tagName === "SELECT" || target.tagName === "TEXTAREA") {
    return true;
  }
  if (target.tagName !== "INPUT") return false;
  return !["checkbox", "radio", "button"].includes((target as HTMLInputElement).type);
}

/** Focuses the view's search field; views without one lead to the orders. */
function search(): boolean {
  const field = document.querySelector<HTMLInputElement>("[data-search]");
  if (field) {
    field.focus();
    field.select();
  } else {
    navigate(href("orders"));
    requestAnimationFrame(() => document.querySelector<HTMLInputElement>("[data-search]")?.focus());
  }
  return true;
}

/** Moves the focus in the list; if a row is open beside it, opens the next one. */
function move(step: number): boolean {
  const rows = [...document.querySelectorAll<HTMLAnchorElement>("a[data-row]")].filter(
    (row) => row.getClientRects().length > 0,
  );
  if (rows.length === 0) return false;
  const open = rows.findIndex((row) => row.getAttribute("aria-current") === "true");
  const focused = rows.findIndex((row) => row === document.activeElement);
  const at = focused >= 0 ? focused : open;
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : at + step];
  if (!next) return true;
  next.focus();
  next.scrollIntoView({ block: "nearest" });
  if (open >= 0) navigate(next.pathname + next.search, "replace");
  return true;
}

/** Closes what is open in the view. */
function close(): boolean {
  const { view, id, query } = route.peek();
  if (!id || view === "unknown") return false;
  navigate(href(view, null, query));
  return true;
}
