//! The dashboard: the built files of `node/dashboard`, part of the program.
//!
//! The page itself is no secret and needs no token; what it shows it asks of the API, which does. It may load nothing but its
//! own files, runs no script or style that stands in a page, and is shown in no other page's frame ([`POLICY`]). Names of
//! files in `assets/` hold a hash of their content, so browsers may keep them for ever; the page itself is asked for anew,
//! and answered with 304 where it is still the same. Addresses of the dashboard's pages ([`PAGES`]) lead to the one page,
//! whose script shows the rest; every other address is left to the API.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use include_dir::{Dir, include_dir};

use super::guard;
use super::problem::{Code, Problem};

/// As `npm run build` in `node/dashboard` wrote it.
static BUILT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/dashboard/dist");

/// First parts of the addresses of pages; `src/pages.ts` of the dashboard names the same.
const PAGES: [&str; 13] = [
    "peers",
    "catalogue",
    "workspaces",
    "areas",
    "editor",
    "runs",
    "services",
    "ledger",
    "people",
    "policies",
    "setup",
    "settings",
    "sign-in",
];

/// What the page may do, as a browser enforces it. Pictures that the page made of what it asked of the API are `blob:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; font-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Of files whose names change with their content: a year.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The dashboard's routes.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let mut router = Router::new().route("/", get(page)).route("/assets/{name}", get(asset));
    for name in FILES.keys().filter(|name| !name.contains('/') && **name != "index.html") {
        router = router.route(&format!("/{name}"), get(|headers| file(headers, name)));
    }
    for page_of in PAGES {
        router = router
            .route(&format!("/{page_of}"), get(page))
            .route(&format!("/{page_of}/{{*rest}}"), get(page));
    }
    router.layer(from_fn(only_here))
}

/// Lets a request pass when its Host is local, and says what the page may do.
async fn only_here(request: Request, next: Next) -> Response {
    if let Err(problem) = guard::check_host(&request) {
        return problem.into_response();
    }
    let mut response = next.run(request).await;
    let said = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in said {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn page(headers: HeaderMap) -> Response {
    file(headers, "index.html").await
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    file(headers, &format!("assets/{name}")).await
}

/// A built file, packed where the browser takes that.
async fn file(headers: HeaderMap, name: &str) -> Response {
    let Some(found) = FILES.get(name) else {
        let detail = "the dashboard has no such file: load the page again";
        return Problem::new(Code::NoRoute, detail).into_response();
    };
    let packed = found.packed.filter(|_| takes_gzip(&headers));
    let tag = if packed.is_some() { &found.packed_tag } else { &found.tag };
    let keep = if name.starts_with("assets/") { FOR_EVER } else { "no-cache" };
    let common = [
        (header::ETAG, tag.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static(keep)),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
    ];
    if is_known(&headers, tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(found.kind))];
    match packed {
        Some(bytes) => {
            let packing = [(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (common, kind, packing, bytes).into_response()
        }
        None => (common, kind, found.plain).into_response(),
    }
}

/// One file and how it is told of.
struct File {
    plain: &'static [u8],
    packed: Option<&'static [u8]>,
    kind: &'static str,
    tag: HeaderValue,
    packed_tag: HeaderValue,
}

static FILES: LazyLock<BTreeMap<&'static str, File>> = LazyLock::new(|| {
    let mut files = BTreeMap::new();
    collect(&BUILT, &mut files);
    files
});

fn collect(dir: &'static Dir<'static>, files: &mut BTreeMap<&'static str, File>) {
    for found in dir.files() {
        let Some(name) = found.path().to_str().filter(|name| !name.ends_with(".gz")) else {
            continue;
        };
        let packed = BUILT.get_file(format!("{name}.gz")).map(include_dir::File::contents);
        let hash = blake3::hash(found.contents()).to_hex();
        let tag = |end: &str| {
            let text = format!("\"{}{end}\"", &hash[..24]);
            HeaderValue::from_str(&text).expect("hex digits are visible ASCII")
        };
        let (plain, kind) = (found.contents(), media_type(name));
        let (tag, packed_tag) = (tag(""), tag("-gz"));
        files.insert(name, File { plain, packed, kind, tag, packed_tag });
    }
    dir.dirs().for_each(|dir| collect(dir, files));
}

/// By the end of the name; browsers are told not to guess.
fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    }
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    let mut codings = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().trim_start_matches("q=").parse::<f32>();
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// Whether the browser has what the tag names.
fn is_known(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).into_iter();
    let mut tags = values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    tags.any(|known| known.trim().trim_start_matches("W/").as_bytes() == tag.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compressed bytes that a first visit may load: the page and all that it names.
    const FIRST_LOAD_MAX: usize = 300 << 10;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_page_names_only_files_of_its_own_and_is_light() {
        let page = str::from_utf8(FILES["index.html"].plain).unwrap();
        let mut first = FILES["index.html"].packed.unwrap().len();
        for part in page.split("=\"").skip(1) {
            let target = part.split('"').next().unwrap();
            assert!(!target.contains("//"), "{target}");
            if let Some(name) = target.strip_prefix('/') {
                let file = FILES.get(name).unwrap_or_else(|| panic!("{name} is not built"));
                first += file.packed.unwrap_or(file.plain).len();
            }
        }
        assert!(first <= FIRST_LOAD_MAX, "{first}");
        assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("<script>"));
    }

    #[test]
    fn the_pages_are_those_that_the_dashboard_names() {
        let source = include_str!("../../dashboard/src/pages.ts");
        let line = source.lines().find(|line| line.starts_with("export const PAGES")).unwrap();
        let named: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        assert_eq!(named, PAGES);
    }

    #[tokio::test]
    async fn files_are_packed_for_those_who_can_and_not_sent_twice() {
        let plain = file(HeaderMap::new(), "index.html").await;
        assert_eq!(plain.headers()["content-type"], "text/html; charset=utf-8");
        assert!(!plain.headers().contains_key("content-encoding"));
        let asked = headers(header::ACCEPT_ENCODING, "br, gzip;q=0.5");
        let packed = file(asked.clone(), "index.html").await;
        assert_eq!(packed.headers()["content-encoding"], "gzip");
        assert_ne!(plain.headers()["etag"], packed.headers()["etag"]);
        let tag = packed.headers()["etag"].to_str().unwrap();
        let mut again = asked;
        again.insert(header::IF_NONE_MATCH, format!("\"x\", W/{tag}").parse().unwrap());
        assert_eq!(file(again, "index.html").await.status(), StatusCode::NOT_MODIFIED);
        assert!(!takes_gzip(&headers(header::ACCEPT_ENCODING, "gzip;q=0, identity")));
        assert_eq!(file(HeaderMap::new(), "../Cargo.toml").await.status(), StatusCode::NOT_FOUND);
        assert!(FILES.keys().any(|name| name.starts_with("assets/") && name.ends_with(".js")));
    }
}
