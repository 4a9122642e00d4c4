/** Where the editor keeps what is drawn, in this browser. */
export const DRAFT = "opencloud.draft";
