// A text with numbers of its lines, and what is wrong with them.

import { useRef } from "react";

/** Something that is wrong in a text; lines and columns count from 1. */
export type Spot = { line: number; column: number; problem: string; hint?: string | null };

export function Code({ label, text, problems, onText }: { label: string; text: string; problems: Spot[]; onText?: (text: string) => void }) {
  const area = useRef<HTMLTextAreaElement>(null);
  const gutter = useRef<HTMLPreElement>(null);
  const wrong = new Set(problems.map((problem) => problem.line));
  const lines = text.split("\n").length;
  const go = (line: number, column: number) => {
    const at = text.split("\n").slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0) + column - 1;
    area.current?.focus();
    area.current?.setSelectionRange(at, at);
    if (area.current !== null) area.current.scrollTop = Math.max(0, (line - 6) * 20);
  };
  return (
    <>
      <div className="code">
        <pre ref={gutter} aria-hidden="true">{Array.from({ length: lines }, (_, at) => <span key={at} className={wrong.has(at + 1) ? "wrong" : undefined}>{at + 1}{"\n"}</span>)}</pre>
        <textarea
          ref={area}
          aria-label={label}
          readOnly={onText === undefined}
          spellCheck={false}
          autoCapitalize="off"
          wrap="off"
          value={text}
          onChange={(event) => onText?.(event.target.value)}
          onScroll={(event) => { if (gutter.current !== null) gutter.current.scrollTop = event.currentTarget.scrollTop; }}
        />
      </div>
      {problems.length > 0 && (
        <ul className="problems" aria-label="Problems">
          {problems.map((problem, at) => (
            <li key={at}>
              <button type="button" onClick={() => go(problem.line, problem.column)}>
                <span className="mono">{problem.line}:{problem.column}</span> {problem.problem}{problem.hint != null && <span className="soft"> · {problem.hint}</span>}
              </button>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}
