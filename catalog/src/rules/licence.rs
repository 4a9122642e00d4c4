//! SPDX licence expressions, as far as it takes to say whether what they ask can be met by a list of licences.

use crate::record::LICENCE_LEN_MAX;

/// Longest expression in bytes; a longer one meets no list.
const EXPRESSION_BYTES_MAX: usize = 4 * LICENCE_LEN_MAX;

/// Whether an expression leaves a choice of licences that are all `allowed`: of `OR` one side is enough, of `AND` both are
/// needed, and an exception after `WITH` only gives more rights, so the licence before it decides unless the list has the
/// whole. Ids are the same in capital and small letters. What is no expression meets no list.
pub(super) fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    if expression.len() > EXPRESSION_BYTES_MAX {
        return false;
    }
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let mut reader = Reader { words: spaced.split_whitespace().collect(), at: 0, allowed };
    reader.any() == Some(true) && reader.at == reader.words.len()
}

struct Reader<'a> {
    words: Vec<&'a str>,
    at: usize,
    allowed: &'a [String],
}

impl<'a> Reader<'a> {
    fn take(&mut self, word: &str) -> bool {
        let is_next = self.words.get(self.at).is_some_and(|next| next.eq_ignore_ascii_case(word));
        self.at += usize::from(is_next);
        is_next
    }

    fn any(&mut self) -> Option<bool> {
        let mut is_met = self.all()?;
        while self.take("OR") {
            is_met |= self.all()?;
        }
        Some(is_met)
    }

    fn all(&mut self) -> Option<bool> {
        let mut is_met = self.one()?;
        while self.take("AND") {
            is_met &= self.one()?;
        }
        Some(is_met)
    }

    /// Nesting is bounded by the length of the expression.
    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let is_met = self.any()?;
            return self.take(")").then_some(is_met);
        }
        let id = self.id()?;
        let has = |id: &str| self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(id));
        let is_met = has(id);
        if !self.take("WITH") {
            return Some(is_met);
        }
        let exception = self.id()?;
        let whole = format!("{id} WITH {exception}");
        Some(is_met || self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(&whole)))
    }

    fn id(&mut self) -> Option<&'a str> {
        let word = *self.words.get(self.at)?;
        let is_operator = ["OR", "AND", "WITH"].iter().any(|op| op.eq_ignore_ascii_case(word));
        let is_id = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.+:".contains(&b));
        self.at += 1;
        (is_id && !is_operator).then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_choice_one_is_enough_and_of_a_sum_all_are_needed() {
        let allowed = ["MIT", "Apache-2.0", "CC-BY-4.0"].map(str::to_owned);
        for good in [
            "MIT",
            "mit",
            "GPL-3.0-only OR MIT",
            "MIT AND Apache-2.0",
            "(GPL-2.0-only AND X) OR (MIT AND CC-BY-4.0)",
            "Apache-2.0 WITH LLVM-exception",
            "((MIT))",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "MIT OR",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "WITH MIT",
            "MIT WITH",
            "as in the contract",
            "MIT, or ask",
        ] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
        let whole = ["GPL-2.0-only WITH Classpath-exception-2.0".to_owned()];
        assert!(is_allowed("GPL-2.0-only WITH Classpath-exception-2.0", &whole));
        assert!(!is_allowed("GPL-2.0-only", &whole));
        assert!(!is_allowed(&"(".repeat(10_000), &allowed), "nesting is bounded");
    }
}
