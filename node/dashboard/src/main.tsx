import { QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { makeClient } from "./api/use";
import { App } from "./app";
import { applyTheme, theme } from "./lib/theme";
import "./styles.css";

applyTheme(theme());
const place = document.getElementById("app");
if (place !== null) {
  createRoot(place).render(
    <StrictMode>
      <QueryClientProvider client={makeClient()}>
        <App />
      </QueryClientProvider>
    </StrictMode>,
  );
}
