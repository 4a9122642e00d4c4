// What pages ask of the node, as hooks.

import { QueryClient, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useRef, useState, useSyncExternalStore } from "react";

import { askSession, type Standing, standing, subscribe } from "./auth";
import { follow, get, Problem } from "./client";
import type { Mesh } from "./types";

/** How long to wait before a stream that broke is asked for again. */
const AGAIN_MS = 2_000;

export function makeClient(): QueryClient {
  // The node says what is wrong the first time; asking again changes nothing.
  return new QueryClient({ defaultOptions: { queries: { retry: false, staleTime: 1_000, refetchOnWindowFocus: true } } });
}

export function useStanding(): Standing {
  useEffect(() => void askSession(), []);
  return useSyncExternalStore(subscribe, standing);
}

/** An answer of the node; asked again every `everyMs` where that is given. */
export function useGet<T>(path: string | null, everyMs?: number) {
  return useQuery<T, Problem>({
    queryKey: [path],
    queryFn: ({ signal }) => get<T>(path ?? "", signal),
    enabled: path !== null,
    refetchInterval: everyMs ?? false,
  });
}

/** Forgets answers whose address begins so, and asks anew for those on the page. */
export function useRefresh(): (...paths: string[]) => void {
  const client = useQueryClient();
  return (...paths) => {
    for (const path of paths) {
      void client.invalidateQueries({ predicate: ({ queryKey }) => String(queryKey[0]).startsWith(path) });
    }
  };
}

/** Follows the events of an address as long as the page shows it; a stream that breaks is asked for again when `again`. */
export function useEvents(path: string | null, take: (data: string) => void, again = true): Problem | null {
  const [trouble, setTrouble] = useState<Problem | null>(null);
  const taker = useRef(take);
  taker.current = take;
  useEffect(() => {
    if (path === null) return;
    const stop = new AbortController();
    let timer = 0;
    const open = () => {
      // What the node refuses it refuses the next time, too.
      let isRefused = false;
      follow(path, stop.signal, (data) => {
        setTrouble(null);
        taker.current(data);
      })
        .catch((error: unknown) => {
          isRefused = error instanceof Problem && error.status >= 400 && error.status < 500;
          if (!stop.signal.aborted) setTrouble(error instanceof Problem ? error : new Problem(0, "stream", "The stream broke", String(error)));
        })
        .finally(() => {
          if (again && !isRefused && !stop.signal.aborted) timer = window.setTimeout(open, AGAIN_MS);
        });
    };
    open();
    return () => {
      stop.abort();
      window.clearTimeout(timer);
    };
  }, [path, again]);
  return trouble;
}

/** The node and its peers, as they are now. */
export function useMesh(): { mesh: Mesh | null; trouble: Problem | null } {
  const [mesh, setMesh] = useState<Mesh | null>(null);
  const trouble = useEvents("/mesh/events", (data) => setMesh(JSON.parse(data) as Mesh));
  return { mesh, trouble };
}
