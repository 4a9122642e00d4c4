import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// `OPENCLOUD_API` names the node that `npm run dev` shows: `http://127.0.0.1:PORT`, as `opencloud dashboard` prints it.
export default defineConfig({
  plugins: [react()],
  server: { proxy: { "/api": { target: process.env.OPENCLOUD_API ?? "http://127.0.0.1:4700", changeOrigin: true } } },
  // Nothing is put into the page itself: its policy allows files of the node alone.
  build: { target: "es2023", assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: false },
  test: { environment: "node", include: ["src/**/*.test.ts"] },
});
