// Names of workspaces, of what is in them, and of what is shared.

/** What a name is made of, as the node has it. */
export const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}";
/** The same, for people. */
export const NAME_HINT = "Up to 64 letters, digits, - _ and . without spaces, a letter or digit first";

/** A title, which may be any text, as a name. */
export function nameOf(title: string): string {
  const word = title.normalize("NFKD").replaceAll(/[\u0300-\u036f]/g, "").replaceAll(/[^A-Za-z0-9._\-]+/g, "-").replaceAll(/^[^A-Za-z0-9]+|-+$/g, "");
  return word === "" ? "unnamed" : word.slice(0, 64);
}
