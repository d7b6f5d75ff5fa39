//! However files are written while the host watches them: by half, or by links that lead elsewhere.

use std::{fs, io::Write as _, os::unix::fs::symlink, time::Duration};

use koksmat_tests::{Folder, Process, guests, until};

use super::{ANSWERED, ON};

async fn ask(host: &Process) -> String {
    host.post("/ask", &[], "").await.text()
}

fn version(number: u32) -> String {
    format!("koksmat-version-{number:08}")
}

/// Wait until this version answers.
async fn answers(host: &Process, number: u32) {
    until(&version(number), async || (ask(host).await == version(number)).then_some(())).await;
}

/// What was said to be wrong.
fn kept_old(host: &Process) -> Vec<String> {
    host.log().into_iter().filter(|line| line.contains("kept old")).collect()
}

#[tokio::test]
async fn a_file_that_is_written_in_parts_is_waited_for_and_one_that_stays_cut_off_is_told_once() {
    let folder = Folder::new().toml(ANSWERED).file("answer.wasm", guests::version(1)).handler("answer", "answer.wasm", ON);
    let file = folder.join("answer.wasm");
    let mut host = Process::start(&folder).await;
    let second = guests::version(2);
    let mut writing = fs::File::create(&file).unwrap();
    for part in second.chunks(second.len() / 3 + 1) {
        writing.write_all(part).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(ask(&host).await, version(1), "nobody has closed it");
    }
    drop(writing);
    answers(&host, 2).await;
    assert!(kept_old(&host).is_empty(), "{:?}", kept_old(&host));

    let third = guests::version(3);
    fs::write(&file, &third[..third.len() / 2]).unwrap();
    host.line("kept old").await;
    assert_eq!(ask(&host).await, version(2));
    fs::write(&file, third).unwrap();
    answers(&host, 3).await;
    let said = kept_old(&host);
    assert!(said.len() == 1 && said[0].contains("answer.wasm"), "{said:?}");
    host.stops_well().await;
}

#[tokio::test]
async fn a_link_serves_what_it_leads_to_in_the_end_and_while_that_is_nowhere_the_old_does() {
    // As deploy scripts have it: a release is a folder, and a link to it is exchanged.
    let folder =
        (1..=4).fold(Folder::new().toml(ANSWERED), |folder, n| folder.file(&format!("releases/{n}/answer.wasm"), guests::version(n)));
    let folder = folder.handler("answer", "current/answer.wasm", ON);
    let lead_to = |release: &str| {
        symlink(folder.join("releases").join(release), folder.join("next")).unwrap();
        fs::rename(folder.join("next"), folder.join("current")).unwrap();
    };
    lead_to("1");
    let mut host = Process::start(&folder).await;
    answers(&host, 1).await;
    lead_to("2");
    answers(&host, 2).await;
    lead_to("nowhere");
    host.line("kept old").await;
    assert_eq!(ask(&host).await, version(2));
    lead_to("3");
    answers(&host, 3).await;
    let said = kept_old(&host);
    assert!(said.len() == 1 && said[0].contains("answer.wasm"), "{said:?}");

    for round in 0..300 {
        lead_to(["2", "nowhere", "3"][round % 3]);
        let answer = ask(&host).await;
        assert!(answer == version(2) || answer == version(3), "{answer}");
    }
    lead_to("4");
    answers(&host, 4).await;
    host.stops_well().await;
}
