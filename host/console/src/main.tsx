// The start: theme first, so that nothing flashes; then who is logged in; then the console.

import { render } from "preact";
import { App } from "./app.tsx";
import { startKeys } from "./lib/keys.ts";
import { startRouter } from "./lib/router.ts";
import { isDark, setTheme, startTheme } from "./lib/theme.ts";
import { loadSession } from "./session.ts";
import "./style/index.css";

startTheme();
document.addEventListener("DOMContentLoaded", () => {
  const root = document.createElement("div");
  root.id = "app";
  document.body.append(root);
  // The page's address changes, and with it what a relative address means.
  const icon = document.querySelector<HTMLLinkElement>('link[rel="icon"]');
  if (icon) icon.href = icon.href;
  startRouter();
  startKeys(() => setTheme(isDark() ? "light" : "dark"));
  render(<App />, root);
  void loadSession();
});
