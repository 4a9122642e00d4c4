// Values that workflows pass, for people.

import type { FileRef, Value } from "../api/types";

/** The files in a value, each with the place where it stands. */
export function files(name: string, value: Value): { name: string; file: FileRef }[] {
  if (value === "null") return [];
  if ("file" in value) return [{ name, file: value.file }];
  if ("list" in value) return value.list.flatMap((item, at) => files(`${name}[${at}]`, item));
  if ("map" in value) return Object.entries(value.map).flatMap(([key, item]) => files(`${name}.${key}`, item));
  return [];
}

/** The value as plain JSON; files and directories by their names. */
export function plain(value: Value): unknown {
  if (value === "null") return null;
  if ("bool" in value) return value.bool;
  if ("int" in value) return value.int;
  if ("float" in value) return value.float;
  if ("text" in value) return value.text;
  if ("list" in value) return value.list.map(plain);
  if ("map" in value) return Object.fromEntries(Object.entries(value.map).map(([key, item]) => [key, plain(item)]));
  return "file" in value ? value.file.name : `${value.dir.name}/`;
}

export function hasFiles(value: Value): boolean {
  return files("", value).length > 0;
}

export type Kind = "picture" | "raster" | "table" | "text" | "other";

/** How a file can be shown, by the end of its name. */
export function kindOf(name: string): Kind {
  const end = name.toLowerCase().split(".").pop() ?? "";
  if (["png", "jpg", "jpeg", "gif", "webp", "avif", "bmp", "svg"].includes(end)) return "picture";
  if (end === "pgm" || end === "ppm") return "raster";
  if (end === "csv" || end === "tsv") return "table";
  if (["txt", "log", "json", "geojson", "yaml", "yml", "md", "xml", "html", "toml", "py", "rs", "c", "h", "sh", "js", "ts", "v", "rpt"].includes(end)) return "text";
  return "other";
}

/** Media types of pictures; the node gives bytes without a type. */
export function mediaType(name: string): string {
  const end = name.toLowerCase().split(".").pop() ?? "";
  return end === "svg" ? "image/svg+xml" : `image/${end === "jpg" ? "jpeg" : end}`;
}

/** Rows of a text with separators (RFC 4180): quotes hold separators, line ends and doubled quotes. */
export function csv(text: string, separator: string, most: number): string[][] {
  const rows: string[][] = [];
  let [row, cell, isQuoted]: [string[], string, boolean] = [[], "", false];
  const endRow = () => {
    row.push(cell);
    if (row.length > 1 || cell !== "") rows.push(row);
    [row, cell] = [[], ""];
  };
  for (let at = 0; at < text.length && rows.length < most; at += 1) {
    const char = text[at]!;
    if (isQuoted) {
      if (char !== '"') cell += char;
      else if (text[at + 1] === '"') {
        cell += '"';
        at += 1;
      } else isQuoted = false;
    } else if (char === '"' && cell === "") isQuoted = true;
    else if (char === separator) {
      row.push(cell);
      cell = "";
    } else if (char === "\n") endRow();
    else if (char !== "\r") cell += char;
  }
  if (rows.length < most) endRow();
  return rows;
}

export type Raster = { width: number; height: number; rgba: Uint8ClampedArray<ArrayBuffer> };

/** A binary PGM (P5) or PPM (P6) as a picture; grey values are spread from the lowest to the highest. `null` when it is none. */
export function raster(bytes: Uint8Array): Raster | null {
  const head: string[] = [];
  let at = 0;
  while (head.length < 4 && at < bytes.length) {
    if (bytes[at] === 35) while (at < bytes.length && bytes[at] !== 10) at += 1;
    else if (bytes[at]! <= 32) at += 1;
    else {
      let word = "";
      while (at < bytes.length && bytes[at]! > 32 && word.length < 12) word += String.fromCharCode(bytes[at++]!);
      head.push(word);
    }
  }
  const [magic, width, height, top] = [head[0], Number(head[1]), Number(head[2]), Number(head[3])];
  const bands = magic === "P5" ? 1 : magic === "P6" ? 3 : 0;
  at += 1;
  const wide = top > 255 ? 2 : 1;
  const count = width * height * bands;
  if (bands === 0 || !(width > 0 && height > 0 && top > 0) || count > 64e6 || bytes.length < at + count * wide) return null;
  const sample = (nth: number) => (wide === 1 ? bytes[at + nth]! : bytes[at + 2 * nth]! * 256 + bytes[at + 2 * nth + 1]!);
  let [low, high] = bands === 1 ? [Infinity, 0] : [0, top];
  if (bands === 1) {
    for (let nth = 0; nth < count; nth += 1) {
      low = Math.min(low, sample(nth));
      high = Math.max(high, sample(nth));
    }
  }
  const scale = 255 / Math.max(1, high - low);
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let nth = 0; nth < width * height; nth += 1) {
    for (let band = 0; band < 3; band += 1) rgba[4 * nth + band] = (sample(bands === 1 ? nth : 3 * nth + band) - low) * scale;
    rgba[4 * nth + 3] = 255;
  }
  return { width, height, rgba };
}
