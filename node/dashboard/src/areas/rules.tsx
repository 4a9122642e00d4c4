// Writing a rule book: rules by form, and the text of all of them beside it.

import { useState, type FormEvent, type ReactNode } from "react";

import type { AreaRule, RuleBook } from "../api/areas";
import { words } from "../lib/format";
import { PRICE_UNITS, read, RULE_KINDS, type RuleKind, sentence, write } from "../lib/rules";
import { Code } from "../ui/code";
import { Field, State, Trouble, useAction } from "../ui/parts";

export const NOTHING = write({ rules: [] });

const HINTS: Record<RuleKind, string> = {
  residency: "Regions with commas between, like eu, de",
  licences: "SPDX ids with commas between, like CC-BY-4.0, MIT",
  personal: "",
  organisations: "Identities with commas between, did:key:…",
  price: "An amount and a currency, like 0.05 EUR",
  runtimes: "With commas between: wasi, container, vm",
};

function Add({ onAdd }: { onAdd: (rule: AreaRule) => void }) {
  const [kind, setKind] = useState<RuleKind>("residency");
  const [text, setText] = useState("");
  const [per, setPer] = useState<string>("cpu_hour");
  const [name, setName] = useState("");
  const add = () => {
    const rule: AreaRule = kind === "personal" ? { personal: "stays" } : kind === "price" ? { price: { per, max: text.trim() } } : { [kind]: words(text) };
    onAdd({ ...(name.trim() === "" ? {} : { name: name.trim() }), ...rule });
    setText("");
    setName("");
  };
  return (
    <fieldset>
      <legend>Another rule</legend>
      <div className="pair">
        <Field label="It says"><select className="input" value={kind} onChange={(event) => setKind(event.target.value as RuleKind)}>{RULE_KINDS.map(([value, told]) => <option key={value} value={value}>{told}</option>)}</select></Field>
        {kind === "price" && <Field label="Per"><select className="input" value={per} onChange={(event) => setPer(event.target.value)}>{PRICE_UNITS.map((unit) => <option key={unit} value={unit}>{unit.replaceAll("_", " ")}</option>)}</select></Field>}
        {kind !== "personal" && <Field label="Which" hint={HINTS[kind]}><input className="input" value={text} onChange={(event) => setText(event.target.value)} /></Field>}
        <Field label="Called" hint="Refusals name it; empty: after its kind"><input className="input" maxLength={32} value={name} onChange={(event) => setName(event.target.value)} /></Field>
      </div>
      <div><button type="button" className="button slim" disabled={kind !== "personal" && text.trim() === ""} onClick={add}>Add the rule</button></div>
    </fieldset>
  );
}

/** The rules of a book as sentences. */
export function Sentences({ book, name, act }: { book: RuleBook | null; name?: (org: string) => string; act?: (at: number) => ReactNode }) {
  if (book === null || book.rules.length === 0) return <p className="soft small">No rules: anything may be shared, anywhere.</p>;
  return (
    <ul className="stack tight" aria-label="Rules">
      {book.rules.map((rule, at) => <li key={at} className="row between small"><span className="wrap">{rule.name !== undefined && <strong>{rule.name}: </strong>}{sentence(rule, name)}</span>{act?.(at)}</li>)}
    </ul>
  );
}

export function BookEditor({ text, onText }: { text: string; onText: (text: string) => void }) {
  const { book, spots } = read(text);
  const remove = (at: number) => onText(write({ rules: (book?.rules ?? []).filter((_, one) => one !== at) }));
  return (
    <div className="stack tight">
      {book !== null && <Sentences book={book} act={(at) => <button type="button" className="button slim danger" onClick={() => remove(at)}>Remove<span className="hidden"> rule {at + 1}</span></button>} />}
      {book !== null && <Add onAdd={(rule) => onText(write({ rules: [...book.rules, rule] }))} />}
      <div className="framed low"><Code label="Rule book" text={text} problems={spots} onText={onText} /></div>
      <p className="small" role="status">{book === null ? <State word="not a rule book" tone="bad" /> : <State word="well formed" tone="good" />}</p>
    </div>
  );
}

/** Writes a book and hands it on when it is well formed; the node says whether it takes it. */
export function BookForm({ begin, word, onSend }: { begin: RuleBook | null; word: string; onSend: (book: RuleBook) => Promise<void> }) {
  const [text, setText] = useState(begin === null ? NOTHING : write(begin));
  const { run, isBusy, error } = useAction();
  const { book } = read(text);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (book !== null) run(() => onSend(book));
  };
  return (
    <form className="form" onSubmit={submit}>
      <BookEditor text={text} onText={setText} />
      <Trouble error={error} />
      <footer className="row"><button className="button main" disabled={isBusy || book === null}>{word}</button></footer>
    </form>
  );
}
