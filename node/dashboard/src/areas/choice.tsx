// Under the rules of which area something is done.

import { type Area, areaAt, type AreaSummary } from "../api/areas";
import { useGet } from "../api/use";
import { short } from "../lib/format";
import { Field, Trouble } from "../ui/parts";
import { Sentences } from "./rules";

/** A choice of the areas of which this organisation is a member, none at first; what is chosen shows its rules. */
export function AreaChoice({ value, onValue }: { value: string; onValue: (id: string) => void }) {
  const all = useGet<AreaSummary[]>("/areas");
  const area = useGet<Area>(value === "" ? null : areaAt(value));
  const mine = (all.data ?? []).filter((one) => one.standing === "member");
  const names = new Map((area.data?.members ?? []).map((one) => [one.org, one.org_name ?? short(one.org)]));
  // Whoever may not see areas has none to choose from.
  if (all.error?.refusal != null) return null;
  return (
    <div className="stack tight">
      <Field label="Area" hint={mine.length === 0 ? "You are a member of no area yet. In one, work is done by its members alone, under its rule book." : "Work is done by its members alone, under its rule book."}>
        <select className="input" disabled={mine.length === 0} value={value} onChange={(event) => onValue(event.target.value)}>
          <option value="">of no area</option>
          {mine.map((one) => <option key={one.id} value={one.id}>{one.name}</option>)}
        </select>
      </Field>
      {area.data !== undefined && <div className="note"><strong>Its rules</strong><Sentences book={area.data.rules.book} name={(org) => names.get(org) ?? short(org)} /></div>}
      <Trouble error={area.error ?? all.error} />
    </div>
  );
}
