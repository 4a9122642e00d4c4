import { describe, expect, it } from "vitest";

import { NAME, nameOf } from "./name";
import { kindOf, read, sentence, write } from "./rules";

describe("a rule book", () => {
  const book = { rules: [{ residency: ["eu", "ch"] }, { name: "cheap", price: { per: "cpu_hour", max: "0.05 EUR" } }, { personal: "stays" }, { organisations: ["did:key:z6Mk"] }] };

  it("is written and read again", () => {
    expect(read(write(book))).toEqual({ book, spots: [] });
    expect(read(write({ rules: [] })).book).toEqual({ rules: [] });
  });

  it("is told in sentences", () => {
    expect(book.rules.map((rule) => sentence(rule, () => "Harbour Lab"))).toEqual([
      "Data is kept and work runs in eu, ch alone",
      "Nothing costs more than 0.05 EUR per cpu hour",
      "Personal data never leaves the organisation that published it",
      "Work is done by Harbour Lab alone",
    ]);
    expect(kindOf({})).toBeNull();
  });

  it("that is wrong says where", () => {
    expect(read('{"rules": [\n{"residency": ["eu"]},\n{"name": "no }"}, {}]}').spots.map(({ line, problem }) => [line, problem])).toEqual([[3, "rule 2 has no kind"], [3, "rule 3 has no kind"]]);
    expect(read('{"rules": [\n{"personal": "stays", "runtimes": []}]}').spots[0]).toMatchObject({ line: 2, problem: "rule 1 has more than one kind" });
    expect(read("{\n  nothing").spots[0]?.line).toBe(2);
    expect(read("[]").book).toBeNull();
  });
});

describe("a name", () => {
  it("is made of any title, and is one that the node takes", () => {
    const whole = new RegExp(`^${NAME}$`);
    for (const [title, name] of [["Terrain maps", "Terrain-maps"], ["Überflutung 2027/28", "Uberflutung-2027-28"], [" (draft) ", "draft"], ["v1.2_b", "v1.2_b"], ["地形", "unnamed"], ["x".repeat(90), "x".repeat(64)]]) {
      expect(nameOf(title!)).toBe(name);
      expect(name).toMatch(whole);
    }
  });
});
