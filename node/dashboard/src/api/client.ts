// Requests to the node. A refusal is a `Problem`, as the node told it.

import { dropped, headers } from "./auth";
import { events } from "./sse";

const BASE = "/api/v1";

/** What policies refused, and which of them; none where nothing permits it. */
export type Refusal = { principal: string; action: string; resource: string; policies: string[] };

/** RFC 9457, as every error of the node is. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly title: string,
    detail: string,
    readonly refusal: Refusal | null = null,
  ) {
    super(detail);
  }
}

async function problem(response: Response): Promise<Problem> {
  const told = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  const text = (key: string, other: string) => (typeof told[key] === "string" ? told[key] : other);
  const title = text("title", `The node answered ${response.status}`);
  return new Problem(response.status, text("code", "unknown"), title, text("detail", response.statusText), (told.refusal as Refusal | undefined) ?? null);
}

export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(BASE + path, { ...init, headers: { ...headers(), ...(init.headers as object) } });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "The node does not answer", "It may have been stopped: look at `opencloud status`.");
  }
  if (response.ok) return response;
  if (response.status === 401) dropped();
  throw await problem(response);
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await request(path, { signal })).json() as Promise<T>;
}

export async function send<T>(method: string, path: string, body?: unknown, more: Record<string, string> = {}): Promise<T> {
  const init = { method, headers: { "content-type": "application/json", ...more }, body: JSON.stringify(body ?? {}) };
  const response = await request(path, init);
  const text = await response.text();
  return (text === "" ? undefined : JSON.parse(text)) as T;
}

export async function upload(bytes: Blob): Promise<{ digest: string; size: number }> {
  const response = await request("/blobs", {
    method: "POST",
    body: bytes,
    headers: { "content-type": "application/octet-stream" },
  });
  return response.json() as Promise<{ digest: string; size: number }>;
}

/** The events at an address, until the node ends them or `signal` does. */
export async function follow(path: string, signal: AbortSignal, take: (data: string) => void): Promise<void> {
  const response = await request(path, { signal, headers: { accept: "text/event-stream" } });
  if (response.body === null) return;
  for await (const data of events(response.body)) take(data);
}

/** Saves bytes of the node under a name. */
export async function save(path: string, name: string): Promise<void> {
  const address = URL.createObjectURL(await (await request(path)).blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  URL.revokeObjectURL(address);
}

/** A query of the parts that are set. */
export function query(parts: Record<string, string | number | boolean | undefined>): string {
  const set = Object.entries(parts).filter(([, value]) => value !== undefined);
  return set.length === 0 ? "" : `?${new URLSearchParams(set.map(([key, value]) => [key, String(value)]))}`;
}
