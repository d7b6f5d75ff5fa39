//! The web's globals, by results the standards give; what is not here; chance.

use std::collections::HashSet;

use koksmat::Event;
use koksmat_tests::within;

use super::{FROM_MEMORY, in_both_tiers, json_response};

#[tokio::test(flavor = "multi_thread")]
async fn the_webs_globals_do_what_the_standards_say() {
    in_both_tiers(&[("globals.js", include_str!("globals.js"))], FROM_MEMORY, async |host| {
        let answer = json_response(host, Event::new("check", "")).await;
        assert_eq!(answer["wrong"], serde_json::json!([]), "of {} checks", answer["checks"]);
        assert!(answer["checks"].as_u64().unwrap() >= 140, "only {} checks ran", answer["checks"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_numbers_differ_in_every_instance() {
    let script = r#"
        Math.random();                           // what was drawn here must not decide what comes in handle
        export function handle() {
          const values = crypto.getRandomValues(new Uint32Array(4));
          return [Math.random(), crypto.randomUUID(), values.join()];
        }
    "#;
    in_both_tiers(&[("random.js", script)], FROM_MEMORY, async |host| {
        let mut pending = Vec::new();
        for _ in 0..100 {
            pending.push(within("a credit", host.memory.send(Event::new("draw", ""))).await.unwrap());
        }
        let mut drawn = [(); 3].map(|()| HashSet::new());
        for pending in pending {
            let koksmat::Answer::Done { response: Some(response) } = within("an answer", pending.answer()).await else { panic!() };
            let values: [serde_json::Value; 3] = serde_json::from_slice(&response.body).unwrap();
            for (drawn, value) in drawn.iter_mut().zip(values) {
                drawn.insert(value.to_string());
            }
        }
        assert_eq!(drawn.map(|values| values.len()), [100; 3]);
    })
    .await;
}
