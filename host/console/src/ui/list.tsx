// Lists beside what is open in them, and the fields that filter them.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { href, route, setQuery, type View } from "../lib/router.ts";
import { Icon } from "./icons.tsx";

/**
 * A list, and beside it what is open; on narrow screens one of them. `side` is beside the list while
 * nothing is open, on narrow screens below it. `slim`: what is open needs little room.
 */
export function Split(props: {
  list: ComponentChildren;
  detail: ComponentChildren | null;
  side?: ComponentChildren;
  slim?: boolean;
}) {
  const beside = props.detail ?? props.side;
  const shape = props.detail ? `has-detail ${props.slim ? "slim" : ""}` : props.side ? "has-side" : "";
  return (
    <div class={`split ${shape}`}>
      <div class="split-list">{props.list}</div>
      {beside && <aside class="split-detail">{beside}</aside>}
    </div>
  );
}

/** The head of what is open, with the way back to the list. */
export function DetailHead(props: {
  view: View;
  title: ComponentChildren;
  label: string;
  children?: ComponentChildren;
}) {
  return (
    <header class="detail-head">
      <a class="button bare" href={href(props.view, null, route.value.query)} aria-label="Close">
        <Icon name="close" />
      </a>
      <div class="detail-title">
        <span class="overline">{props.label}</span>
        <h2>{props.title}</h2>
      </div>
      <div class="actions">{props.children}</div>
    </header>
  );
}

/** The link that covers a row. */
export function RowLink(props: {
  to: string;
  current: boolean;
  children: ComponentChildren;
  title?: string;
}) {
  const link = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    if (props.current) link.current?.scrollIntoView({ block: "nearest" });
  }, [props.current]);
  return (
    <a
      ref={link}
      class="row-link"
      href={props.to}
      data-row
      aria-current={props.current ? "true" : undefined}
      title={props.title}
    >
      {props.children}
    </a>
  );
}

/** A text field that sets a filter when it is left, or with Enter. */
export function FilterText(props: {
  name: string;
  label: string;
  options?: string[];
  wide?: boolean;
}) {
  const value = route.value.query[props.name] ?? "";
  const draft = useSignal(value);
  useEffect(() => void (draft.value = value), [value]);
  const list = props.options ? `options-${props.name}` : undefined;
  const apply = () => {
    const text = draft.value.trim();
    if (text !== value) setQuery({ [props.name]: text || null, cursor: null });
  };
  return (
    <>
      <input
        class={`filter ${props.wide ? "wide" : ""} ${value ? "set" : ""}`}
        type="text"
        name={props.name}
        aria-label={props.label}
        placeholder={props.label}
        autocomplete="off"
        spellcheck={false}
        list={list}
        value={draft}
        onInput={(event) => (draft.value = event.currentTarget.value)}
        onBlur={apply}
        onKeyDown={(event) => event.key === "Enter" && apply()}
      />
      {list && (
        <datalist id={list}>
          {props.options?.map((option) => <option value={option} key={option} />)}
        </datalist>
      )}
    </>
  );
}

export function FilterSelect(props: {
  name: string;
  label: string;
  all: string;
  options: [string, string][];
}) {
  const value = route.value.query[props.name] ?? "";
  return (
    <select
      class={`filter ${value ? "set" : ""}`}
      name={props.name}
      aria-label={props.label}
      value={value}
      onChange={(event) => setQuery({ [props.name]: event.currentTarget.value || null, cursor: null })}
    >
      <option value="">{props.all}</option>
      {props.options.map(([key, text]) => (
        <option value={key} key={key} selected={key === value}>
          {text}
        </option>
      ))}
    </select>
  );
}

/** Periods for filters by time: what the host understands as `since`, from now. */
export const PERIODS: [string, string][] = [
  ["5m", "last 5 min"],
  ["1h", "last hour"],
  ["24h", "last 24 h"],
  ["7d", "last 7 days"],
];

/** The start of a period, rounded so that it stays the same for a while. */
export function sinceOf(period: string | undefined): number | undefined {
  const match = /^(\d+)([mhd])$/.exec(period ?? "");
  if (!match) return undefined;
  const unit = { m: 60_000, h: 3_600_000, d: 86_400_000 }[match[2] as "m" | "h" | "d"];
  return Math.floor(Date.now() / 60_000) * 60_000 - Number(match[1]) * unit;
}

/** A search field that `/` focuses. */
export function SearchField(props: {
  label: string;
  value?: string;
  onSearch: (text: string) => void;
}) {
  const draft = useSignal(props.value ?? "");
  useEffect(() => void (draft.value = props.value ?? ""), [props.value]);
  return (
    <form
      class="search"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        props.onSearch(draft.value.trim());
      }}
    >
      <Icon name="search" />
      <input
        type="search"
        data-search
        aria-label={props.label}
        placeholder={props.label}
        autocomplete="off"
        spellcheck={false}
        value={draft}
        onInput={(event) => (draft.value = event.currentTarget.value)}
      />
      <kbd>/</kbd>
    </form>
  );
}
