//! What of a log is not kept, as the commands say it.

use reqwest::Response;

use super::output::note;
use crate::api::DROPPED;

/// Bytes of what was asked for that were written and are not kept.
pub(super) fn dropped(response: &Response) -> u64 {
    let told = response.headers().get(DROPPED).and_then(|value| value.to_str().ok());
    told.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Says, if there is something to say, how many bytes are missing, and where.
pub(super) fn tell_dropped(bytes: u64, place: &str) {
    if bytes > 0 {
        note(&format!("[{bytes} bytes {place} are not kept]"));
    }
}
