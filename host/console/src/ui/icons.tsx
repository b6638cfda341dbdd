// Small pictures, drawn with the colour of the text. They never stand alone: words are beside them.

const PATHS: Record<string, string> = {
  pipeline: "M2 4h4v3H2zM10 2.5h4v3h-4zM10 10h4v3h-4zM6 5.5h2V4h2M8 5.5v6h2",
  orders: "M3 2h10v12l-2.5-1.5L8 14l-2.5-1.5L3 14zM5.5 5.5h5M5.5 8.5h5",
  events: "M2 8h2.5l2-5 3 10 2-5H14",
  "dead-letters": "M2 4h12v9H2zM2 4.5l6 4.5 6-4.5M5.5 1.8h5",
  plugins: "M5 2v3M11 2v3M3 5h10v3a5 5 0 0 1-10 0zM8 13v2",
  system: "M2 3h12v4H2zM2 9h12v4H2zM4.5 5h.01M4.5 11h.01",
  done: "M3 8.5l3.2 3.2L13 5",
  dead: "M4 4l8 8M12 4l-8 8",
  open: "M8 2.5a5.5 5.5 0 1 1-5.5 5.5",
  skipped: "M3 4l5 4-5 4zM12 4v8",
  replaced: "M3 6h8l-2.5-2.5M13 10H5l2.5 2.5",
  paused: "M5.5 3.5v9M10.5 3.5v9",
  draining: "M8 2.5v8M4.5 7.5L8 11l3.5-3.5M3 13.5h10",
  running: "M5 3.5l7 4.5-7 4.5z",
  warning: "M8 2.5l6 10.5H2zM8 6.5v3M8 11.3v.01",
  waiting: "M8 2.5a5.5 5.5 0 1 1-.01 0M8 5v3.2l2.2 1.4",
  info: "M8 2.5a5.5 5.5 0 1 1-.01 0M8 7.5v3.5M8 5.2v.01",
  search: "M7 2.5a4.5 4.5 0 1 1-.01 0M10.5 10.5L14 14",
  dot: "M8 5.5a2.5 2.500 0 1 1-.01 0",
  close: "M4 4l8 8M12 4l-8 8",
  back: "M10 3L5 8l5 5",
  next: "M6 3l5 5-5 5",
  theme: "M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5z",
  help: "M5.8 6a2.2 2.2 0 1 1 3 2c-.6.3-.8.7-.8 1.3M8 11.8v.01",
  copy: "M5.5 5.5h8v8h-8zM3.5 10.5h-1v-8h8v1",
  edit: "M3 13l.7-3L10.500 3.200l2.300 2.300L6 12.300z",
  replay: "M3 8a5 5 0 1 1 1.700 3.750M3 13v-3h3",
  outside: "M9 3h4v4M13 3L7.500 8.500M11 9.500V13H3V5h3.500",
  live: "M8 7.900v.2M5 5a4.200 4.200 0 0 0 0 6M11 5a4.200 4.200 0 0 1 0 6",
};

export function Icon({ name, size = 14 }: { name: string; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 16 16" aria-hidden="true">
      <path d={PATHS[name] ?? PATHS["info"]} />
    </svg>
  );
}

/** The address of the picture, beside that of the script: its name contains a hash. */
export function iconAddress(): string {
  return document.querySelector<HTMLLinkElement>('link[rel="icon"]')?.href ?? "";
}
