import { lazy, Suspense, useEffect, useRef, useState } from "react";
import { Link, Route, Switch, useLocation } from "wouter";

import { signOut } from "./api/auth";
import { useGet, useStanding } from "./api/use";
import type { Status } from "./api/types";
import { Overview } from "./routes/overview";
import { SignIn } from "./routes/sign-in";
import { Icon } from "./ui/icons";
import { Empty, Page, Wait } from "./ui/parts";

const Peers = lazy(() => import("./routes/peers"));
const Catalogue = lazy(() => import("./routes/catalogue"));
const Workspaces = lazy(() => import("./routes/workspaces"));
const Areas = lazy(() => import("./routes/areas"));
const People = lazy(() => import("./routes/people"));
const Editor = lazy(() => import("./routes/editor"));
const Runs = lazy(() => import("./routes/runs"));
const RunPage = lazy(() => import("./routes/run"));
const Services = lazy(() => import("./routes/services"));
const Ledger = lazy(() => import("./routes/ledger"));
const Policies = lazy(() => import("./routes/policies"));
const Setup = lazy(() => import("./routes/setup"));
const Settings = lazy(() => import("./routes/settings"));

const LINKS = [
  ["/", "Overview", "overview"],
  ["/peers", "Peers and trust", "peers"],
  ["/catalogue", "Catalogue", "catalogue"],
  ["/workspaces", "Workspaces", "workspaces"],
  ["/areas", "Areas", "areas"],
  ["/editor", "Workflow editor", "editor"],
  ["/runs", "Runs", "runs"],
  ["/services", "Services", "services"],
  ["/ledger", "Ledger", "ledger"],
  ["/people", "People", "people"],
  ["/policies", "Policies", "policies"],
  ["/settings", "Settings", "settings"],
] as const;

function Nav({ onGo }: { onGo?: () => void }) {
  const [place] = useLocation();
  const isAt = (to: string) => (to === "/" ? place === "/" : place === to || place.startsWith(`${to}/`));
  return (
    <nav className="nav" aria-label="Pages">
      {LINKS.map(([to, name, icon]) => (
        <Link key={to} href={to} aria-current={isAt(to) ? "page" : undefined} onClick={onGo}>
          <Icon name={icon} />
          {name}
        </Link>
      ))}
    </nav>
  );
}

function Foot() {
  const { data } = useGet<Status>("/status");
  return (
    <div className="foot">
      {data !== undefined && <div><strong>{data.org_name}</strong>{data.name}</div>}
      <button type="button" className="button slim" onClick={() => void signOut()}>Sign out</button>
    </div>
  );
}

function Drawer({ onClose }: { onClose: () => void }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = ref.current;
    dialog?.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={ref} className="drawer" aria-label="Menu" onCancel={onClose} onClick={(event) => { if (event.target === ref.current) onClose(); }}>
      <div className="row between">
        <Brand />
        <button type="button" className="button quiet slim" onClick={onClose}>Close</button>
      </div>
      <Nav onGo={onClose} />
      <Foot />
    </dialog>
  );
}

export function Brand() {
  return (
    <div className="brand">
      <img src="/favicon.svg" alt="" />
      OpenCloud
    </div>
  );
}

export function App() {
  const standing = useStanding();
  const [isOpen, setOpen] = useState(false);
  const [place] = useLocation();
  const main = useRef<HTMLElement>(null);
  const isFirst = useRef(true);
  useEffect(() => {
    // Who goes to another page by keyboard or by ear begins at its top.
    if (!isFirst.current) main.current?.focus({ preventScroll: true });
    isFirst.current = false;
    window.scrollTo(0, 0);
  }, [place]);
  if (standing === "asking") return <main className="center"><Wait what="the node" /></main>;
  if (standing === "out") return <SignIn />;
  return (
    <div className="shell">
      <a className="skip" href="#main">Skip to the page</a>
      <aside className="side" aria-label="Menu">
        <div>
          <Brand />
          <Nav />
          <Foot />
        </div>
      </aside>
      <header className="top">
        <Brand />
        <button type="button" className="icon" aria-label="Menu" aria-haspopup="dialog" onClick={() => setOpen(true)}><Icon name="menu" /></button>
      </header>
      {isOpen && <Drawer onClose={() => setOpen(false)} />}
      <main id="main" ref={main} tabIndex={-1}>
        <Suspense fallback={<Wait what="the page" />}>
          <Switch>
            <Route path="/" component={Overview} />
            <Route path="/sign-in" component={Overview} />
            <Route path="/peers" component={Peers} />
            <Route path="/catalogue" component={Catalogue} />
            <Route path="/workspaces"><Workspaces name={null} /></Route>
            <Route path="/workspaces/:name">{({ name }) => <Workspaces name={decodeURIComponent(name)} />}</Route>
            <Route path="/areas"><Areas id={null} /></Route>
            <Route path="/areas/:id">{({ id }) => <Areas id={id} />}</Route>
            <Route path="/people" component={People} />
            <Route path="/editor" component={Editor} />
            <Route path="/runs" component={Runs} />
            <Route path="/runs/:id">{({ id }) => <RunPage id={id} key={id} />}</Route>
            <Route path="/services" component={Services} />
            <Route path="/ledger" component={Ledger} />
            <Route path="/policies" component={Policies} />
            <Route path="/setup" component={Setup} />
            <Route path="/settings" component={Settings} />
            <Route>
              <Page title="No such page"><Empty title="There is nothing at this address">The menu leads to all pages there are.</Empty></Page>
            </Route>
          </Switch>
        </Suspense>
      </main>
    </div>
  );
}
