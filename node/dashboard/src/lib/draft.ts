/** Where the editor keeps what is drawn, in this browser. */
export const DRAFT = "opencloud.draft";
/** And the area under whose rules it is to be run, if any. */
const AREA = "opencloud.draft.area";

/** Hands a document to the editor. */
export function openDraft(text: string, area = ""): void {
  localStorage.setItem(DRAFT, text);
  setDraftArea(area);
}

export const draftArea = (): string => localStorage.getItem(AREA) ?? "";
export const setDraftArea = (id: string): void => localStorage.setItem(AREA, id);
