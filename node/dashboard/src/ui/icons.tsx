// Drawn for this page: one stroke width, no fill.

const PATHS: Record<string, string> = {
  overview: "M4 13h6V4H4zM14 20h6v-9h-6zM14 8h6V4h-6zM4 20h6v-4H4z",
  peers: "M12 5.5a2 2 0 1 0 0-.01M5 18.500a2 2 0 1 0 0-.01M19 18.500a2 2 0 1 0 0-.01M11 7.300 6.200 16.700M13 7.300l4.800 9.400M7.200 18.500h9.600",
  catalogue: "M4 5h16v4H4zM4 11h16v4H4zM4 17h16v3H4z",
  editor: "M4 6h5v5H4zM15 4h5v5h-5zM15 15h5v5h-5zM9 8.500h3v-2h3M12 8.500v9h3",
  workspaces: "M4 7h6l2 2h8v10H4zM4 7V5h6l2 2",
  areas: "M9.500 8.500a5 5 0 1 0 0 .01M14.500 8.500a5 5 0 1 0 5 5 5 5 0 0 0-5-5M4.500 8.500a5 5 0 0 1 10 0 5 5 0 0 1-10 0",
  people: "M9 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6M3.500 19c.5-3.500 2.500-5 5.500-5s5 1.500 5.500 5M15.500 5.500a3 3 0 0 1 0 5.300M17 14.300c2 .7 3.200 2.200 3.500 4.700",
  policies: "M12 3l7 3v5c0 4.600-2.800 7.800-7 10-4.200-2.200-7-5.400-7-10V6zM9 11.500l2.200 2.200L15 10",
  runs: "M12 4a8 8 0 1 0 8 8M12 8v4l3 2M16 4l4 4M20 4v4h-4",
  services: "M5 5h14v6H5zM5 13h14v6H5zM8 8h.01M8 16h.01M11 8h5M11 16h5",
  ledger: "M6 4h12v16l-3-2-3 2-3-2-3 2zM9 8h6M9 12h6",
  settings: "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6M12 3v3M12 18v3M3 12h3M18 12h3M5.600 5.600l2.200 2.200M16.200 16.200l2.200 2.200M18.400 5.600l-2.200 2.200M7.800 16.200l-2.200 2.200",
  menu: "M4 7h16M4 12h16M4 17h16",
};

export function Icon({ name }: { name: string }) {
  return (
    <svg viewBox="0 0 24 24" fill="none" stroke="currentColor" strokeWidth="1.7" strokeLinecap="round" strokeLinejoin="round" aria-hidden="true">
      <path d={PATHS[name] ?? ""} />
    </svg>
  );
}
