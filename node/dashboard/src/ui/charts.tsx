// Charts: lengths beside words and figures, so that nothing stands in a colour or a length alone.

import type { Row } from "../lib/bill";
import { exact, money } from "../lib/format";

export function Bars({ label, rows }: { label: string; rows: Row[] }) {
  const most = rows.reduce((max, row) => (row.amount > max ? row.amount : max), 1n);
  return (
    <ul className="bars" aria-label={label}>
      {rows.map((row) => (
        <li key={`${row.key} ${row.currency}`}>
          <span className="row between">
            <span className="wrap">{row.label}</span>
            <span className="num" title={`${exact(row.amount)} ${row.currency}`}>{money(row.amount, row.currency)}</span>
          </span>
          <svg viewBox="0 0 100 9" preserveAspectRatio="none" aria-hidden="true">
            <rect className="back" width="100" height="9" rx="1" />
            <rect className="bar" width={Math.max(0.5, Number((row.amount * 10_000n) / most) / 100)} height="9" rx="1" />
          </svg>
        </li>
      ))}
    </ul>
  );
}

/** Amounts by day. */
export function Columns({ label, rows }: { label: string; rows: Row[] }) {
  const shown = rows.slice(-14);
  const most = shown.reduce((max, row) => (row.amount > max ? row.amount : max), 1n);
  const [width, height, foot] = [Math.max(360, shown.length * 64), 170, 34];
  const each = width / Math.max(1, shown.length);
  const words = shown.map((row) => `${row.label}: ${money(row.amount, row.currency)}`).join("; ");
  return (
    <figure className="figure columns">
      <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={`${label}. ${words}`}>
        <line x1="0" x2={width} y1={height - foot} y2={height - foot} />
        {shown.map((row, at) => {
          const tall = Number((row.amount * 1_000n) / most) / 1_000 * (height - foot - 22);
          const middle = at * each + each / 2;
          return (
            <g key={`${row.key} ${row.currency}`}>
              <rect x={middle - Math.min(22, each / 3)} width={Math.min(44, (each / 3) * 2)} y={height - foot - tall} height={Math.max(1, tall)} rx="3" />
              <text x={middle} y={height - foot - tall - 6} textAnchor="middle">{money(row.amount, row.currency)}</text>
              <text x={middle} y={height - 14} textAnchor="middle">{row.label.slice(5)}</text>
            </g>
          );
        })}
      </svg>
    </figure>
  );
}
