// A list whose first page is kept up to date, and whose older pages are read when they are scrolled to.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { asProblem, get } from "../api/client.ts";
import { useGet } from "../api/poll.ts";
import type { Page, Problem } from "../api/types.ts";
import { appendOlder, mergeNewest } from "../lib/paged.ts";
import { ProblemNote } from "./basics.tsx";

type Query = Record<string, string | number | null | undefined>;

export interface Paged<T> {
  items: T[] | null;
  problem: Problem | null;
  more: boolean;
  loadMore: () => Promise<void>;
  loading: boolean;
}

export function usePaged<T>(
  at: string,
  query: Query,
  interval: number,
  idOf: (one: T) => string,
): Paged<T> {
  const key = at + JSON.stringify(query);
  const first = useGet<Page<T>>(at, interval, query);
  const state = useSignal<{ key: string; items: T[]; next: number | null }>({
    key: "",
    items: [],
    next: null,
  });
  const loading = useSignal(false);
  const failed = useSignal<Problem | null>(null);
  useEffect(() => {
    if (!first.data) return;
    const { items, next } = first.data;
    const old = state.peek();
    const merged = old.key === key ? mergeNewest(items, old.items, idOf) : null;
    const grown = merged !== null && old.items.length > 0;
    state.value = { key, items: merged ?? items, next: grown ? old.next : (next ?? null) };
  }, [first.data, key]);
  const loadMore = async () => {
    const { next } = state.peek();
    if (next === null || loading.peek()) return;
    loading.value = true;
    failed.value = null;
    try {
      const page = await get<Page<T>>(at, { query: { ...query, cursor: next } });
      const now = state.peek();
      if (now.key === key) {
        const items = appendOlder(now.items, page.items, idOf);
        state.value = { key, items, next: page.next ?? null };
      }
    } catch (error) {
      failed.value = asProblem(error);
    }
    loading.value = false;
  };
  const current = state.value.key === key ? state.value : null;
  return {
    items: current ? current.items : null,
    problem: failed.value ?? first.problem,
    more: (current?.next ?? null) !== null,
    loadMore,
    loading: loading.value,
  };
}

/** The end of a list: reads on when it comes into view. */
export function ListEnd<T>({ of, noun }: { of: Paged<T>; noun: string }) {
  const element = useRef<HTMLDivElement>(null);
  const load = useRef(of.loadMore);
  load.current = of.loadMore;
  useEffect(() => {
    if (!element.current || !of.more) return;
    const observer = new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && void load.current(),
      { rootMargin: "300px" },
    );
    observer.observe(element.current);
    return () => observer.disconnect();
  }, [of.more, of.items?.length]);
  return (
    <div class="list-foot" ref={element}>
      <ProblemNote problem={of.problem} />
      {of.items && of.items.length > 0 && (
        <span class="num">
          {of.items.length.toLocaleString("en-US")} {noun}
          {of.more ? " so far" : ""}
        </span>
      )}
      {of.more && (
        <button type="button" onClick={() => void of.loadMore()}>
          {of.loading ? "Reading…" : "More"}
        </button>
      )}
    </div>
  );
}
