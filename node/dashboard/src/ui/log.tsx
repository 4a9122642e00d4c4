// What a task or a replica writes, as it writes it.

import { useEffect, useRef, useState } from "react";

import { useEvents } from "../api/use";
import { Trouble } from "./parts";

/** Characters of a log that the page keeps; of a longer one it shows the end. */
const LOG_MAX = 400_000;

export function LogText({ path, label }: { path: string | null; label: string }) {
  const [text, setText] = useState("");
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => setText(""), [path]);
  const trouble = useEvents(path, (data) => {
    const piece = JSON.parse(data) as { text: string; dropped?: number };
    const gap = (piece.dropped ?? 0) > 0 ? `\n… ${piece.dropped} bytes are not kept …\n` : "";
    setText((known) => (known + gap + piece.text).slice(-LOG_MAX));
  }, false);
  useEffect(() => {
    const element = box.current;
    if (element !== null) element.scrollTop = element.scrollHeight;
  }, [text]);
  return (
    <>
      <Trouble error={trouble} />
      <div className="log" ref={box} tabIndex={0} role="log" aria-label={label}>{text === "" ? "(nothing written)" : text}</div>
    </>
  );
}
