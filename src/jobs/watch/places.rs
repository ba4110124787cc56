//! The places of clients that wait: so many for all, and so many of these for one user, who would otherwise keep all
//! others out. Knows nothing of the world.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use uuid::Uuid;

/// For all: as many as there are connections by default (`http.max_connections`).
const PLACES: usize = 10_000;
/// Of them, for one user.
const OF_ONE_USER: usize = 1_000;

/// The places. Cloning is cheap, and gives the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Of each user who has any.
    of: HashMap<Uuid, usize>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    user_id: Uuid,
}

impl Places {
    /// A place for a client of this user; `None` when all have, or the user has, too many already.
    pub fn take(&self, user_id: Uuid) -> Option<Place> {
        let mut taken = self.0.lock();
        if taken.all >= PLACES {
            return None;
        }
        let of_user = taken.of.entry(user_id).or_default();
        if *of_user >= OF_ONE_USER {
            return None;
        }
        *of_user += 1;
        taken.all += 1;
        Some(Place {
            places: self.clone(),
            user_id,
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.0.lock().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        taken.all -= 1;
        if let Some(of_user) = taken.of.get_mut(&self.user_id) {
            *of_user -= 1;
            if *of_user == 0 {
                taken.of.remove(&self.user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_with_too_many_places_gets_no_more_and_others_do() {
        let places = Places::default();
        let [greedy, other] = [1, 2].map(Uuid::from_u128);
        let mut held: Vec<Place> = (0..OF_ONE_USER).map(|_| places.take(greedy).unwrap()).collect();
        assert!(places.take(greedy).is_none());
        assert!(places.take(other).is_some());
        held.pop();
        assert!(places.take(greedy).is_some(), "one was given back");
    }

    #[test]
    fn all_together_have_a_bound_and_what_is_given_back_leaves_nothing() {
        let places = Places::default();
        let users = (0..).map(|n: usize| Uuid::from_u128((n / OF_ONE_USER) as u128));
        let held: Vec<Place> = users.map_while(|user_id| places.take(user_id)).collect();
        assert_eq!((held.len(), places.taken()), (PLACES, PLACES));
        drop(held);
        assert_eq!(places.taken(), 0);
        assert!(places.0.lock().of.is_empty());
    }
}
