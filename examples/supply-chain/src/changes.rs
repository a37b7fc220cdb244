//! A deterministic generator of what happens in a supply chain: products come, change and go, a few of
//! them are hot, and orders and purchases refer to them.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use crate::product::{NewProduct, Product};

/// Which product, as a place between 0 and 1 in the list of all there are then; low places are hot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject(f64);

impl Subject {
    /// Its index in a list of so many; `None` in an empty one.
    pub(crate) fn index(self, count: usize) -> Option<usize> {
        // The place is below 1, so the product rounds down to less than count.
        (count > 0).then(|| ((self.0 * count as f64) as usize).min(count - 1))
    }
}

/// A change of one product.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Insert(NewProduct),
    Update(Subject, Edit),
    Delete(Subject),
}

impl Change {
    pub(crate) fn subject(&self) -> Option<Subject> {
        match self {
            Self::Insert(_) => None,
            Self::Update(subject, _) | Self::Delete(subject) => Some(*subject),
        }
    }
}

/// What an update does.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    /// New price in per cent of the old one.
    Price(i64),
    Rename(String),
    Batch(String),
    Warranty(i32),
    Discontinue,
}

impl Edit {
    pub(crate) fn apply(&self, product: &Product) -> Product {
        let mut product = product.clone();
        match self {
            Self::Price(percent) => product.price_cents = (product.price_cents * percent / 100).max(1),
            Self::Rename(name) => product.name.clone_from(name),
            Self::Batch(batch) => product.batch.clone_from(batch),
            Self::Warranty(months) => product.warranty_months = *months,
            Self::Discontinue => product.status = "discontinued".into(),
        }
        product
    }
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Changes in one transaction of the product service.
    Products(Vec<Change>),
    /// The order service takes an order.
    Order(Subject, i32),
    /// The purchase service buys.
    Purchase(Subject, i32),
}

const CATEGORIES: [&str; 6] = ["tools", "garden", "kitchen", "lighting", "paint", "größen & ölfarben"];
const NOUNS: [&str; 8] = ["hammer", "lamp", "kettle", "spade", "drill", "brush", "pan", "saw"];
const ADJECTIVES: [&str; 6] = ["small", "large", "blue", "sturdy", "déluxe", "folding"];

/// An endless series of steps; the same seed gives the same series.
#[derive(Debug)]
pub(crate) struct Generator {
    random: StdRng,
    inserted: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), inserted: 0 }
    }

    /// The next step; with few products it begins by adding some.
    pub(crate) fn step(&mut self, products: usize) -> Step {
        if products < 20 {
            return Step::Products((0..10).map(|_| self.insert()).collect());
        }
        match self.random.random_range(0..100) {
            0..10 => Step::Order(self.subject(), self.random.random_range(1..20)),
            10..15 => Step::Purchase(self.subject(), self.random.random_range(10..500)),
            15..25 => {
                let count = self.random.random_range(2..20);
                Step::Products((0..count).map(|_| self.change()).collect())
            }
            _ => Step::Products(vec![self.change()]),
        }
    }

    fn change(&mut self) -> Change {
        match self.random.random_range(0..100) {
            0..18 => self.insert(),
            18..25 => Change::Delete(self.subject()),
            _ => Change::Update(self.subject(), self.edit()),
        }
    }

    fn edit(&mut self) -> Edit {
        match self.random.random_range(0..100) {
            0..65 => Edit::Price(self.random.random_range(85..120)),
            65..80 => Edit::Rename(self.name()),
            80..90 => Edit::Batch(self.batch()),
            90..96 => Edit::Warranty(self.random.random_range(0..5) * 12),
            _ => Edit::Discontinue,
        }
    }

    fn insert(&mut self) -> Change {
        self.inserted += 1;
        let price_cents = self.random.random_range(100..500_000);
        Change::Insert(NewProduct {
            sku: format!("SKU-{:06}", self.inserted),
            name: self.name(),
            category: self.pick(&CATEGORIES).to_owned(),
            batch: self.batch(),
            warranty_months: self.random.random_range(0..5) * 12,
            price_cents,
            cost_cents: price_cents * 6 / 10,
        })
    }

    /// Skewed: the cube brings half of all changes to the first eighth of the products.
    fn subject(&mut self) -> Subject {
        Subject(self.random.random::<f64>().powi(3))
    }

    fn name(&mut self) -> String {
        format!("{} {}", self.pick(&ADJECTIVES), self.pick(&NOUNS))
    }

    fn batch(&mut self) -> String {
        format!("B{:04}", self.random.random_range(0..2000))
    }

    fn pick(&mut self, words: &[&'static str]) -> &'static str {
        words[self.random.next_u32() as usize % words.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_series() {
        let series = |seed| {
            let mut generator = Generator::new(seed);
            (0..200).map(|count| format!("{:?}", generator.step(count))).collect::<Vec<_>>()
        };
        assert_eq!(series(7), series(7));
        assert_ne!(series(7), series(8));
    }

    #[test]
    fn an_index_is_always_inside() {
        assert_eq!(Subject(0.999_999).index(3), Some(2));
        assert_eq!(Subject(0.0).index(1), Some(0));
        assert_eq!(Subject(0.5).index(0), None);
    }
}
