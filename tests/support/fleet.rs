//! Several hosts at the same work, each with a folder and a store of its own, which are killed, stopped and added at random.

use rand::{Rng, rngs::StdRng};

use crate::{Folder, Process};

/// The hosts that are alive, and what became of the others.
pub struct Fleet<F> {
    folder: F,
    hosts: Vec<(Folder, Process)>,
    pub kills: usize,
    pub stops: usize,
}

impl<F: Fn() -> Folder> Fleet<F> {
    /// So many hosts, each of which gets a folder from `folder`.
    pub async fn of(hosts: usize, folder: F) -> Self {
        let mut fleet = Self { folder, hosts: Vec::new(), kills: 0, stops: 0 };
        for _ in 0..hosts {
            fleet.add().await;
        }
        fleet
    }

    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    pub async fn add(&mut self) {
        let folder = (self.folder)();
        let process = Process::start(&folder).await;
        self.hosts.push((folder, process));
    }

    pub async fn kill(&mut self, which: usize) {
        // Its store dies with it.
        let (_folder, process) = self.hosts.remove(which);
        process.signal("KILL").await;
        assert_eq!(process.ended().await.code, None);
        self.kills += 1;
    }

    /// In good order: what it has received and not handled goes back, and nothing of it is counted as lost.
    pub async fn stop(&mut self, which: usize) {
        let (_folder, process) = self.hosts.remove(which);
        process.stops_well().await;
        self.stops += 1;
    }

    pub async fn stop_all(&mut self) {
        while !self.hosts.is_empty() {
            self.stop(0).await;
        }
    }

    /// One of them is killed or stopped and another one comes, or one more comes, or one of four is killed.
    pub async fn fault(&mut self, random: &mut StdRng) {
        let which = random.random_range(0..self.hosts.len());
        match random.random_range(0..5) {
            0 | 1 => {
                self.kill(which).await;
                self.add().await;
            }
            2 | 3 => {
                self.stop(which).await;
                self.add().await;
            }
            _ if self.hosts.len() < 4 => self.add().await,
            _ => self.kill(which).await,
        }
    }
}
