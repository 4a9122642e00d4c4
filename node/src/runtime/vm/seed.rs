//! The seed of cloud-init, by which a disk machine learns of its task.
//!
//! The user data has two parts in one MIME message: the author's own, as it is, and a script of the node. Scripts run last
//! and in the order of their names, so the node's is called `zz-opencloud`: the task finds all that the author asked for.

use super::iso;

/// Lets root log in by the keys, too, to whom cloud-init otherwise gives them with a command that says to be somebody else.
/// Vendor data, so that the author's user data has the last word.
const KEYS_FOR_ROOT: &str = "#cloud-config\ndisable_root: false\n";

/// Writes the image of a NoCloud seed.
///
/// `id` tells this machine from others, `token` is a text that occurs in none of the parts.
pub(super) fn image(
    id: &str,
    token: &str,
    script: &str,
    user_data: Option<&str>,
    ssh_keys: &[String],
) -> Vec<u8> {
    let user_data = user_data_of(token, script, user_data);
    let mut meta_data = format!("instance-id: {id}\nlocal-hostname: machine\n");
    if !ssh_keys.is_empty() {
        meta_data.push_str("public-keys:\n");
        for key in ssh_keys {
            // A JSON string is a YAML string, whatever is in it.
            let key = serde_json::Value::from(key.trim());
            meta_data.push_str(&format!("  - {key}\n"));
        }
    }
    let mut files = vec![("user-data", user_data.as_bytes()), ("meta-data", meta_data.as_bytes())];
    if !ssh_keys.is_empty() {
        files.push(("vendor-data", KEYS_FOR_ROOT.as_bytes()));
    }
    iso::image("cidata", &files)
}

fn user_data_of(token: &str, script: &str, own: Option<&str>) -> String {
    let mut text =
        format!("Content-Type: multipart/mixed; boundary=\"{token}\"\nMIME-Version: 1.0\n\n");
    if let Some(own) = own {
        text.push_str(&format!("--{token}\n"));
        // A message of several parts brings its own headers; of anything else cloud-init finds out the kind.
        if !is_message(own) {
            text.push_str("Content-Type: text/plain; charset=\"utf-8\"\nMIME-Version: 1.0\n");
            text.push_str("Content-Transfer-Encoding: 8bit\n");
            text.push_str("Content-Disposition: attachment; filename=\"author\"\n\n");
        }
        text.push_str(own);
        text.push('\n');
    }
    text.push_str(&format!("--{token}\n"));
    text.push_str("Content-Type: text/x-shellscript; charset=\"utf-8\"\nMIME-Version: 1.0\n");
    text.push_str("Content-Transfer-Encoding: 8bit\n");
    text.push_str("Content-Disposition: attachment; filename=\"zz-opencloud\"\n\n");
    text.push_str(script);
    text.push_str(&format!("\n--{token}--\n"));
    text
}

fn is_message(text: &str) -> bool {
    let start = text.get(..13).unwrap_or(text);
    start.eq_ignore_ascii_case("Content-Type:") || start.eq_ignore_ascii_case("MIME-Version:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_part_comes_first_and_the_nodes_script_has_the_last_name() {
        let text = user_data_of("t0k", "#!/bin/sh\ntrue\n", Some("#cloud-config\nlocale: false\n"));
        let own = text.find("#cloud-config").unwrap();
        let script = text.find("filename=\"zz-opencloud\"\n\n#!/bin/sh").unwrap();
        assert!(own < script);
        assert_eq!(text.matches("--t0k\n").count(), 2);
        assert!(text.ends_with("--t0k--\n"));
    }

    #[test]
    fn a_message_of_several_parts_keeps_its_own_headers() {
        let own = "Content-Type: multipart/mixed; boundary=\"b\"\n\n--b\n\n#!/bin/sh\n--b--\n";
        let text = user_data_of("t0k", "#!/bin/sh\n", Some(own));
        assert!(text.contains("--t0k\nContent-Type: multipart/mixed; boundary=\"b\""));
    }

    #[test]
    fn a_key_cannot_add_a_line() {
        let image = image("1", "t", "x", None, &["ssh-ed25519 AAAA a\nb: c".to_owned()]);
        let text = String::from_utf8_lossy(&image).into_owned();
        assert!(text.contains(r#"- "ssh-ed25519 AAAA a\nb: c""#));
        assert!(text.contains(KEYS_FOR_ROOT));
    }

    #[test]
    fn without_keys_nobody_is_told_anything_about_them() {
        let image = image("1", "t", "x", None, &[]);
        let text = String::from_utf8_lossy(&image).into_owned();
        assert!(!text.contains("public-keys") && !text.contains(KEYS_FOR_ROOT));
    }
}
