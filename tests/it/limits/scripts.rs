//! Hostile scripts: the same limits, in both tiers (just written, and built before).

use koksmat_tests::process::koksmat;

use super::*;

const HOSTILE: &str = r#"
import { log, Reject } from "koksmat";
const deep = (n) => deep(n + 1) + 1;
const hog = () => { const kept = []; for (;;) kept.push(new Uint8Array(1 << 20).fill(1)); };
const attacks = {
  loop() { for (;;) {} },
  hog,
  "hog and catch"() { try { hog(); } catch { return "caught"; } },
  "hog and reject"() { try { hog(); } catch { throw new Reject("my own words"); } },
  deep() { return deep(0); },
  "deep and catch"() { try { deep(0); } catch (error) { return `${error instanceof RangeError} ${error.message}`; } },
  flood() { for (let n = 0; n < 2000; n++) log.info("x".repeat(1024)); return "flooded"; },
  never() { return new Promise(() => {}); },
  string() { let s = "x"; for (;;) s += s; },
  regexp() { return /^(a+)+$/.test("a".repeat(64) + "b"); },
  throws() { throw new TypeError("a mistake"); },
};
export function handle(event) { return attacks[event.type](); }
"#;

async fn ends_as_it_should(host: &TestHost, ty: &str) {
    for count in [1, 8] {
        for answer in in_time(host, &vec![Event::new(ty, ""); count]).await {
            if count == 8 && matches!(&answer, Answer::Dead { reason } if reason.contains(CUT)) {
                // Eight who work hard may be cut before they come to their end.
                continue;
            }
            let dead = |part: &str| assert!(matches!(&answer, Answer::Dead { reason } if reason.contains(part)), "{ty}: {answer:?}");
            let done = |text: &str| assert_eq!(String::from_utf8_lossy(&response(answer.clone()).body), text, "{ty}");
            match ty {
                "loop" | "regexp" => dead(CUT),
                "hog" | "hog and reject" => dead(OUT_OF_MEMORY),
                "string" => dead("InternalError: string too long"),
                "hog and catch" => done("caught"),
                "deep" => dead("at deep (hostile.js:3:30)"),
                "deep and catch" => done("true Maximum call stack size exceeded"),
                "flood" => done("flooded"),
                "never" => dead("never settles"),
                "throws" => dead("TypeError: a mistake"),
                other => panic!("{other}?"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_scripts_are_cut_in_both_tiers() {
    // A script of its own for each run: the first tier is for what was never seen before.
    let script = format!("{HOSTILE}// {:?}\n", Instant::now());
    let settings = format!("on = [{{ source = \"memory\" }}]\nretry = {{ attempts = 1 }}\n{LIMITS}");
    let mut folder = Folder::new().script("hostile", "hostile.js", &script, &settings);
    for built in [false, true] {
        if built {
            let queue = folder.toml("[sources.memory]\nkind = \"embedded\"\n");
            queue.write();
            assert_eq!(koksmat(queue.path(), &["build"]).await.code, Some(0));
            folder = Folder::new().script("hostile", "hostile.js", &script, &settings);
        }
        let host = TestHost::start(folder).await;
        for ty in
            ["loop", "regexp", "hog", "hog and catch", "hog and reject", "string", "deep", "deep and catch", "flood", "never", "throws"]
        {
            ends_as_it_should(&host, ty).await;
        }
        folder = host.stop().await.0;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_top_level_is_an_error_of_the_build() {
    for (top, problem) in [
        ("while (true) {}", "the top level of its modules does not come to an end"),
        ("throw new Error('at once');", "bad.js:1:11: Error: at once"),
        ("const kept = []; for (;;) kept.push(new Uint8Array(1 << 20));", "out of memory"),
        ("const deep = (n) => deep(n + 1) + 1; deep(0);", "bad.js:1:29: RangeError"),
        ("await new Promise(() => {});", "bad.js: the top level never finishes: it awaits a promise"),
    ] {
        let text = format!("{top}\nexport function handle() {{}}\n");
        let folder = Folder::new().queue("q").script("bad", "bad.js", &text, "on = [{ source = \"q\" }]");
        folder.write();
        let ended = koksmat(folder.path(), &["build"]).await;
        let log = ended.log.join("\n");
        assert_eq!(ended.code, Some(2), "{top}: {log}");
        assert!(log.starts_with("handlers.bad: bad.js") && log.contains(problem) && !log.contains("bad.js: bad.js"), "{top}: {log}");
    }
}
