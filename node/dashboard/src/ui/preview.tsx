// A file of the node, shown where that is possible.

import { useEffect, useRef, useState } from "react";

import { request, save } from "../api/client";
import type { FileRef } from "../api/types";
import { bytes } from "../lib/format";
import { csv, kindOf, mediaType, raster, type Raster } from "../lib/values";
import { Trouble, useAction, Wait } from "./parts";

/** Larger pictures are offered for download alone. */
const PICTURE_MAX = 16 << 20;
/** So much of a text or table is fetched. */
const TEXT_MAX = 64 << 10;
const ROWS_MAX = 50;

type Shown = { picture: string } | { raster: Raster } | { table: string[][] } | { text: string };

async function load(file: FileRef, signal: AbortSignal): Promise<Shown | null> {
  const kind = kindOf(file.name);
  const isPicture = kind === "picture" || kind === "raster";
  if (kind === "other" || (isPicture && file.size > PICTURE_MAX)) return null;
  const range = isPicture || file.size <= TEXT_MAX ? undefined : { range: `bytes=0-${TEXT_MAX - 1}` };
  const response = await request(`/blobs/${file.digest}`, { signal, headers: range });
  const content = await response.arrayBuffer();
  if (kind === "picture") return { picture: URL.createObjectURL(new Blob([content], { type: mediaType(file.name) })) };
  if (kind === "raster") {
    const found = raster(new Uint8Array(content));
    return found === null ? null : { raster: found };
  }
  const text = new TextDecoder().decode(content);
  if (kind === "table") return { table: csv(text, file.name.toLowerCase().endsWith(".tsv") ? "\t" : ",", ROWS_MAX) };
  return { text };
}

function Canvas({ found, name }: { found: Raster; name: string }) {
  const ref = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    ref.current?.getContext("2d")?.putImageData(new ImageData(found.rgba, found.width, found.height), 0, 0);
  }, [found]);
  return <canvas ref={ref} width={found.width} height={found.height} role="img" aria-label={name} />;
}

function Content({ shown, file }: { shown: Shown; file: FileRef }) {
  if ("picture" in shown) return <img src={shown.picture} alt={`${file.name}, as the run made it`} />;
  if ("raster" in shown) return <Canvas found={shown.raster} name={`${file.name}, as the run made it`} />;
  if ("text" in shown) return <pre tabIndex={0}>{shown.text}{file.size > TEXT_MAX ? "\n…" : ""}</pre>;
  const [head, ...rest] = shown.table;
  return (
    <div className="scroll" tabIndex={0} role="region" aria-label={file.name}>
      <table>
        <thead><tr>{(head ?? []).map((cell, at) => <th key={at} scope="col">{cell}</th>)}</tr></thead>
        <tbody>{rest.map((row, nth) => <tr key={nth}>{row.map((cell, at) => <td key={at}>{cell}</td>)}</tr>)}</tbody>
      </table>
    </div>
  );
}

export function Preview({ name, file }: { name: string; file: FileRef }) {
  const [shown, setShown] = useState<Shown | null | "wait">("wait");
  const [error, setError] = useState<unknown>(null);
  const action = useAction();
  useEffect(() => {
    const stop = new AbortController();
    let made: Shown | null = null;
    load(file, stop.signal)
      .then((found) => {
        made = found;
        if (stop.signal.aborted) release(found);
        else setShown(found);
      })
      .catch((problem: unknown) => {
        if (!stop.signal.aborted) {
          setError(problem);
          setShown(null);
        }
      });
    return () => {
      stop.abort();
      release(made);
    };
  }, [file.digest, file.name]);
  return (
    <section className="card preview" aria-label={name}>
      <header>
        <div>
          <h2 className="wrap">{name}</h2>
          <span className="soft small">{file.name}, {bytes(file.size)}</span>
        </div>
        <button type="button" className="button slim" disabled={action.isBusy} onClick={() => action.run(() => save(`/blobs/${file.digest}`, file.name))}>
          Download<span className="hidden"> {file.name}</span>
        </button>
      </header>
      <Trouble error={error ?? action.error} />
      {shown === "wait" ? <Wait what={file.name} /> : shown === null ? <p className="soft small">There is no preview of files of this kind or size.</p> : <Content shown={shown} file={file} />}
    </section>
  );
}

function release(shown: Shown | null): void {
  if (shown !== null && "picture" in shown) URL.revokeObjectURL(shown.picture);
}
