//! Random histories against a model: whatever is done in whatever order, every accepted event ends once, and key-value is what the
//! committed calls made of it.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;

#[derive(Default)]
struct Model {
    /// Keys that were accepted and are neither done nor dead.
    open: BTreeSet<String>,
    done: BTreeSet<String>,
    dead: BTreeSet<String>,
    attempts: BTreeMap<String, u32>,
    keyvalue: BTreeMap<String, i64>,
}

pub(crate) async fn random_histories_do_what_the_model_does(store: Arc<dyn Store>) {
    let mut random = StdRng::seed_from_u64(4);
    let mut model = Model::default();
    let mut running: Vec<Task> = Vec::new();
    for step in 0..1500 {
        match random.random_range(0..10) {
            0..=2 => accept_one(&*store, &mut model, &mut random).await,
            3..=4 => {
                let claimed = store.claim(vec![want("invoice", random.random_range(1..4))]).await.unwrap();
                check_claimed(&model, &running, &claimed, step);
                running.extend(claimed);
            }
            5..=8 if !running.is_empty() => {
                let task = running.swap_remove(random.random_range(0..running.len()));
                settle(&*store, &mut model, task, &mut random).await;
            }
            9 if !running.is_empty() => {
                let task = running.swap_remove(random.random_range(0..running.len()));
                store.release(vec![task.claim]).await.unwrap();
            }
            _ => replay(&*store, &mut model).await,
        }
    }
    finish(&*store, &mut model, running).await;
}

async fn accept_one(store: &dyn Store, model: &mut Model, random: &mut StdRng) {
    let key = random.random_range(0..400).to_string();
    let order_key = random.random_bool(0.7).then(|| random.random_range(0..5).to_string());
    let acceptance = Acceptance { handlers: vec![Subscriber { handler: "invoice".into(), order: order_key }], ..order(&key) };
    let known = [&model.open, &model.done, &model.dead].iter().any(|keys| keys.contains(&key));
    match accepted(store, acceptance).await {
        Accepted::New { .. } => assert!(!known && model.open.insert(key), "accepted twice"),
        Accepted::Duplicate { id } => assert!(known && id == key),
        Accepted::Full => panic!("there is no bound"),
    }
}

fn check_claimed(model: &Model, running: &[Task], claimed: &[Task], step: usize) {
    for task in claimed {
        let key = task.key.as_deref().unwrap();
        assert!(model.open.contains(key), "step {step}: {key} ended before");
        assert!(running.iter().all(|other| other.key != task.key), "step {step}: {key} runs twice");
        assert_eq!(task.attempts, model.attempts.get(key).copied().unwrap_or(0), "step {step}: attempts of {key}");
    }
}

async fn settle(store: &dyn Store, model: &mut Model, task: Task, random: &mut StdRng) {
    let key = task.key.as_deref().unwrap().to_owned();
    match random.random_range(0..6) {
        0 => {
            assert_eq!(store.commit(settling(&task, park(0))).await.unwrap(), Committed::Yes);
            *model.attempts.entry(key).or_default() += 1;
        }
        1 => {
            assert_eq!(store.commit(settling(&task, dead("no"))).await.unwrap(), Committed::Yes);
            model.open.remove(&key);
            model.attempts.remove(&key);
            model.dead.insert(key);
        }
        _ => {
            let effects = write(store, model, random).await;
            assert_eq!(store.commit(settling(&task, done_with(effects))).await.unwrap(), Committed::Yes);
            assert_eq!(store.commit(settling(&task, done_with(wrote("a", Write::Add(1))))).await.unwrap(), Committed::Settled);
            model.open.remove(&key);
            model.done.insert(key);
        }
    }
}

async fn write(store: &dyn Store, model: &mut Model, random: &mut StdRng) -> Effects {
    let key = (*["a", "b", "c"].choose(random).unwrap()).to_owned();
    let reads = vec![read(store, &key).await];
    let write = match random.random_range(0..3) {
        0 => {
            model.keyvalue.remove(&key);
            Write::Delete
        }
        1 => {
            *model.keyvalue.entry(key.clone()).or_default() += 3;
            Write::Add(3)
        }
        _ => {
            let number = random.random_range(-50..50);
            model.keyvalue.insert(key.clone(), number);
            Write::Set(number.to_string().into())
        }
    };
    Effects { reads, ..wrote(&key, write) }
}

async fn replay(store: &dyn Store, model: &mut Model) {
    let replayed = store.replay(all_letters(), dead_letters::again()).await.unwrap();
    assert_eq!(replayed, model.dead.len() as u64);
    model.open.append(&mut model.dead);
}

async fn finish(store: &dyn Store, model: &mut Model, mut running: Vec<Task>) {
    replay(store, model).await;
    while !running.is_empty() {
        for task in running {
            assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
            let key = task.key.as_deref().unwrap();
            assert!(model.open.remove(key) && model.done.insert(key.to_owned()), "{key} ended twice");
        }
        running = claim(store).await;
    }
    // What was running may have held back all the rest.
    for task in claim(store).await {
        assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
        model.open.remove(task.key.as_deref().unwrap());
    }
    assert!(model.open.is_empty(), "lost: {:?}", model.open);
    assert!(store.depths().await.unwrap().is_empty());
    let mut found = BTreeMap::new();
    for key in store.list(tenant(), String::new(), None, 99).await.unwrap() {
        let number = value(store, &key).await.unwrap().parse().unwrap();
        found.insert(key, number);
    }
    assert_eq!(found, model.keyvalue);
}
