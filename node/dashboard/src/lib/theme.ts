// Light, dark, or as the system has it; kept in this browser.

export type Theme = "system" | "light" | "dark";
const KEY = "opencloud.theme";

export function theme(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === "light" || kept === "dark" ? kept : "system";
}

export function applyTheme(wanted: Theme): void {
  if (wanted === "system") {
    localStorage.removeItem(KEY);
    document.documentElement.removeAttribute("data-theme");
  } else {
    localStorage.setItem(KEY, wanted);
    document.documentElement.setAttribute("data-theme", wanted);
  }
}
