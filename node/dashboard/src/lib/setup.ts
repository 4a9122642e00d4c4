// Whether this browser was asked already to set the node up.

const KEY = "opencloud.setup";

export const isSettled = (): boolean => localStorage.getItem(KEY) !== null;
export const settled = (): void => localStorage.setItem(KEY, "done");
