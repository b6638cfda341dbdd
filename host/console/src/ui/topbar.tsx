// The head of a view.

import type { ComponentChildren } from "preact";

export function TopBar(props: { title: string; children?: ComponentChildren }) {
  return (
    <div class="topbar">
      <h1>{props.title}</h1>
      {props.children}
    </div>
  );
}
