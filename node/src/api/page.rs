//! Long lists, page by page.
//!
//! `limit` says how many items a page has, `after` which item the page before ended with. Where there is more, the answer's `Link`
//! header leads to the next page (RFC 8288). Items that come and go meanwhile are neither told twice nor keep others from being told;
//! when the item that a page is to follow is gone itself, the reader begins anew (`cursor_gone`).

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use serde::Serialize;
use utoipa::openapi::path::Parameter;

use super::openapi::{from_one, query};
use super::problem::{Code, Problem};

/// Most items of a page; whoever asks for more gets so many.
pub(super) const LIMIT_MAX: usize = 10_000;

/// Which part of a list is wanted; all of it when nothing is said.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    pub(super) limit: Option<usize>,
    pub(super) after: Option<String>,
}

/// The parameters of a list that comes in pages.
pub(super) fn parameters() -> [Parameter; 2] {
    [from_one("limit"), query("after", "string", false)]
}

impl Page {
    /// The part of `items` that is wanted; `key` names an item for `after`.
    pub(super) fn of<T: Serialize>(
        self,
        uri: &Uri,
        items: Vec<T>,
        key: impl Fn(&T) -> String,
    ) -> Result<(HeaderMap, Json<Vec<T>>), Problem> {
        let start = match &self.after {
            None => 0,
            Some(after) => match items.iter().position(|item| key(item) == *after) {
                Some(at) => at + 1,
                None => {
                    let detail = "the item that the page is to follow is not in the list any more: begin without `after`";
                    return Err(Problem::new(Code::CursorGone, detail));
                }
            },
        };
        if self.limit == Some(0) {
            return Err(Problem::new(
                Code::Query,
                "`limit` is how many items a page has: at least 1",
            ));
        }
        let limit = self.limit.unwrap_or(LIMIT_MAX).min(LIMIT_MAX);
        let is_last = items.len() - start <= limit;
        let page: Vec<T> = items.into_iter().skip(start).take(limit).collect();
        let mut headers = HeaderMap::new();
        if let Some(last) = page.last().filter(|_| !is_last)
            && let Ok(link) = HeaderValue::from_str(&next(uri, limit, &key(last)))
        {
            headers.insert(header::LINK, link);
        }
        Ok((headers, Json(page)))
    }
}

/// The address of the next page: this one, with another end of the page before.
fn next(uri: &Uri, limit: usize, last: &str) -> String {
    format!("<{}>; rel=\"next\"", address(uri, limit, Some(last)))
}

/// The address of another page of the same list.
pub(super) fn address(uri: &Uri, limit: usize, after: Option<&str>) -> String {
    let kept = uri.query().into_iter().flat_map(|query| query.split('&'));
    let kept = kept.filter(|part| !part.starts_with("limit=") && !part.starts_with("after="));
    let after = after.map(|after| format!("after={}", encoded(after)));
    let ours = std::iter::once(format!("limit={limit}")).chain(after);
    let query: Vec<String> =
        kept.filter(|part| !part.is_empty()).map(str::to_owned).chain(ours).collect();
    format!("{}?{}", uri.path(), query.join("&"))
}

fn encoded(text: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().fold(String::new(), |mut out, b| {
        if is_plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_until_the_list_ends() {
        let items = || (0..5).map(|n| format!("a/{n}")).collect::<Vec<_>>();
        let mut uri: Uri = "/api/v1/x?filter=a%20b&limit=2".parse().unwrap();
        let mut page = Page { limit: Some(2), after: None };
        let mut told = Vec::new();
        loop {
            let (headers, Json(part)) = page.clone().of(&uri, items(), String::clone).unwrap();
            assert!(part.len() <= 2);
            told.extend(part.clone());
            let Some(link) = headers.get(header::LINK) else { break };
            let link = link.to_str().unwrap();
            let to = link.strip_prefix('<').unwrap().split('>').next().unwrap().to_owned();
            assert_eq!(to, format!("/api/v1/x?filter=a%20b&limit=2&after=a%2F{}", told.len() - 1));
            uri = to.parse().unwrap();
            page.after = part.last().cloned();
        }
        assert_eq!(told, items());
        let gone = Page { limit: None, after: Some("b".to_owned()) };
        assert_eq!(gone.of(&uri, items(), String::clone).unwrap_err().code, "cursor_gone");
        let none = Page { limit: Some(0), after: None };
        assert_eq!(none.of(&uri, items(), String::clone).unwrap_err().code, "query");
        let (headers, Json(all)) = Page::default().of(&uri, items(), String::clone).unwrap();
        assert_eq!((headers.len(), all.len()), (0, 5));
    }
}
