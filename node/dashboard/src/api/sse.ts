// Server-sent events (WHATWG HTML, section 9.2) out of a response: `EventSource` cannot send a token.

/** Longest event in characters; a longer one ends the stream with an error. */
export const EVENT_LEN_MAX = 64 << 20;

/** Takes text as it comes and gives the data of whole events. */
export class Parser {
  #rest = "";
  #data: string[] = [];

  push(text: string): string[] {
    if (this.#rest.length + text.length > EVENT_LEN_MAX) throw new Error("an event is too long");
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() ?? "";
    const whole: string[] = [];
    for (const raw of lines) {
      const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
      if (line === "") {
        if (this.#data.length > 0) whole.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line.startsWith("data:")) {
        this.#data.push(line.slice(line.startsWith("data: ") ? 6 : 5));
      }
    }
    return whole;
  }
}

/** The data of each event of a body. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const parser = new Parser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}
