// Light and dark: as the system says, until the user chooses. The choice is kept in this browser.

import { signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
const KEY = "postrider-theme";

function stored(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : "system";
  } catch {
    return "system";
  }
}

export const theme = signal<Theme>("system");

/** Applies the choice before anything is drawn. */
export function startTheme(): void {
  setTheme(stored());
}

export function setTheme(value: Theme): void {
  theme.value = value;
  const root = document.documentElement;
  if (value === "system") delete root.dataset["theme"];
  else root.dataset["theme"] = value;
  try {
    if (value === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, value);
  } catch {
    // Without storage the choice holds until the page is closed.
  }
}

/** Light or dark, as it is now. */
export function isDark(): boolean {
  if (theme.value !== "system") return theme.value === "dark";
  return matchMedia("(prefers-color-scheme: dark)").matches;
}
