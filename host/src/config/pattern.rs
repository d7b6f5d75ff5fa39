//! Patterns of subscriptions and grants: `*` stands for any run of characters, everything else for itself. It never reads configuration.

/// Whether `text` matches `pattern`. Takes time linear in the two lengths, whatever the pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut text) = text.strip_prefix(head).and_then(|text| text.strip_suffix(tail)) else {
        return false;
    };
    // The leftmost place is always good enough: it leaves the most text for the pieces that follow.
    for piece in middle.split('*') {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    true
}

/// Whether some text may match both patterns. Errs on the side of yes.
pub(crate) fn may_overlap(one: &str, other: &str) -> bool {
    match (one.contains('*'), other.contains('*')) {
        (_, false) => matches(one, other),
        (false, true) => matches(other, one),
        (true, true) => {
            let head = |pattern: &str| pattern.split('*').next().unwrap_or_default().to_owned();
            let (one, other) = (head(one), head(other));
            one.starts_with(&other) || other.starts_with(&one)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "order.created"),
            ("order.*", "order."),
            ("order.*", "order.created.late"),
            ("*.created", "order.created"),
            ("order.*.eu", "order.created.eu"),
            ("a*b*c", "a-b-b-c"),
            ("*a*a*", "aa"),
            ("größe.*", "größe.neu"),
            ("", ""),
        ] {
            assert!(matches(pattern, text), "{pattern} should match {text}");
        }
    }

    #[test]
    fn the_rest_stands_for_itself() {
        for (pattern, text) in [
            ("order.created", "order.created2"),
            ("order.*", "orders.created"),
            ("aba*aba", "aba"),
            ("ab*ba", "aba"),
            ("*a*a*", "a"),
            ("a?c", "abc"),
            ("", "x"),
        ] {
            assert!(!matches(pattern, text), "{pattern} should not match {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time() {
        let text = "a".repeat(200_000);
        assert!(!matches(&format!("{}b", "a*".repeat(50_000)), &text));
    }

    #[test]
    fn overlap_is_seen_where_it_can_be_told() {
        assert!(may_overlap("order.*", "order.created"));
        assert!(may_overlap("order.*", "*.created"));
        assert!(!may_overlap("order.*", "invoice.created"));
        assert!(!may_overlap("order.*", "invoice.*"));
        assert!(!may_overlap("order.created", "order.paid"));
    }
}
