//! An order desk: what a plugin of ordinary size looks like. Data with serde, tasks with tokio, events with tracing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// The value that the host waits for.
pub const NUMBER: u64 = 0;

/// Money, in cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cents(pub i64);

impl std::ops::Add for Cents {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl std::iter::Sum for Cents {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, next| sum + next)
    }
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "refused", rename_all = "snake_case")]
pub enum Refusal {
    UnknownArticle { article: String },
    UnknownCustomer { customer: u32 },
    OutOfStock { article: String, wanted: u32, left: u32 },
    OverLimit { customer: u32, limit: Cents, wanted: Cents },
    Empty,
    Closed,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownArticle { article } => write!(f, "there is no article {article}"),
            Self::UnknownCustomer { customer } => write!(f, "there is no customer {customer}"),
            Self::OutOfStock { article, wanted, left } => write!(f, "{wanted} of {article} wanted, {left} left"),
            Self::OverLimit { customer, limit, wanted } => {
                write!(f, "customer {customer} may order for {} and wants to for {}", limit.0, wanted.0)
            }
            Self::Empty => f.write_str("the order has no lines"),
            Self::Closed => f.write_str("the desk is closed"),
        }
    }
}

impl std::error::Error for Refusal {}

type Result<T> = std::result::Result<T, Refusal>;

/// Something that can be ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Article {
    pub name: String,
    pub price: Cents,
    pub stock: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// Who orders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Customer {
    pub id: u32,
    pub name: String,
    pub limit: Cents,
    pub level: Level,
}

/// How dear a customer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    New,
    Known,
    Dear,
}

impl Level {
    fn discount(self) -> i64 {
        match self {
            Self::New => 0,
            Self::Known => 2,
            Self::Dear => 5,
        }
    }
}

/// One line of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub article: String,
    pub count: u32,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub number: u64,
    pub customer: u32,
    pub lines: Vec<Line>,
    #[serde(default)]
    pub note: Option<String>,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    pub order: u64,
    pub customer: u32,
    pub net: Cents,
    pub discount: Cents,
    pub total: Cents,
}

/// Everything that the desk knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Desk {
    articles: BTreeMap<String, Article>,
    customers: BTreeMap<u32, Customer>,
    invoices: Vec<Invoice>,
    refused: u64,
    closed: bool,
}

impl Desk {
    pub fn stock(&mut self, article: Article) {
        tracing::debug!(name = %article.name, stock = article.stock, "stocked");
        self.articles.entry(article.name.clone()).and_modify(|known| known.stock += article.stock).or_insert(article);
    }

    pub fn welcome(&mut self, customer: Customer) {
        tracing::debug!(id = customer.id, name = %customer.name, "welcome");
        self.customers.insert(customer.id, customer);
    }

    fn article(&self, name: &str) -> Result<&Article> {
        self.articles.get(name).ok_or_else(|| Refusal::UnknownArticle { article: name.to_owned() })
    }

    fn customer(&self, id: u32) -> Result<&Customer> {
        self.customers.get(&id).ok_or(Refusal::UnknownCustomer { customer: id })
    }

    fn net(&self, order: &Order) -> Result<Cents> {
        order
            .lines
            .iter()
            .map(|line| {
                let article = self.article(&line.article)?;
                if article.stock < line.count {
                    return Err(Refusal::OutOfStock {
                        article: line.article.clone(),
                        wanted: line.count,
                        left: article.stock,
                    });
                }
                Ok(Cents(article.price.0 * i64::from(line.count)))
            })
            .sum::<Result<Cents>>()
    }

    #[tracing::instrument(level = "debug", skip(self, order), fields(number = order.number))]
    pub fn order(&mut self, order: &Order) -> Result<Invoice> {
        let made = self.invoice(order);
        match &made {
            Ok(invoice) => {
                for line in &order.lines {
                    if let Some(article) = self.articles.get_mut(&line.article) {
                        article.stock -= line.count;
                    }
                }
                tracing::info!(total = invoice.total.0, "ordered");
                self.invoices.push(invoice.clone());
            }
            Err(refusal) => {
                self.refused += 1;
                tracing::warn!(%refusal, "refused");
            }
        }
        made
    }

    fn invoice(&self, order: &Order) -> Result<Invoice> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        if order.lines.is_empty() {
            return Err(Refusal::Empty);
        }
        let customer = self.customer(order.customer)?;
        let net = self.net(order)?;
        let discount = Cents(net.0 * customer.level.discount() / 100);
        let total = Cents(net.0 - discount.0);
        let open: Cents =
            self.invoices.iter().filter(|invoice| invoice.customer == customer.id).map(|invoice| invoice.total).sum();
        let wanted = open + total;
        if wanted > customer.limit {
            return Err(Refusal::OverLimit { customer: customer.id, limit: customer.limit, wanted });
        }
        Ok(Invoice { order: order.number, customer: customer.id, net, discount, total })
    }

    pub fn report(&self) -> Report {
        let mut by_customer: BTreeMap<u32, Cents> = BTreeMap::new();
        for invoice in &self.invoices {
            let sum = by_customer.entry(invoice.customer).or_default();
            *sum = *sum + invoice.total;
        }
        let mut scarce: Vec<_> =
            self.articles.values().filter(|article| article.stock < 5).map(|article| article.name.clone()).collect();
        scarce.sort();
        Report {
            orders: self.invoices.len(),
            refused: self.refused,
            total: by_customer.values().copied().sum(),
            by_customer,
            scarce,
        }
    }
}

/// What there is to say at the end of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub orders: usize,
    pub refused: u64,
    pub total: Cents,
    pub by_customer: BTreeMap<u32, Cents>,
    pub scarce: Vec<String>,
}

// the middle

/// What can be asked of the desk's task.
enum Ask {
    Order(Order, oneshot::Sender<Result<Invoice>>),
    Stock(Article),
    Report(oneshot::Sender<Report>),
    Save(oneshot::Sender<String>),
    Close,
}

/// The desk, behind a task of its own.
#[derive(Clone)]
pub struct Counter {
    asks: mpsc::Sender<Ask>,
}

impl Counter {
    pub fn open(desk: Desk) -> Self {
        let (asks, mut asked) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut desk = desk;
            while let Some(ask) = asked.recv().await {
                match ask {
                    Ask::Order(order, answer) => {
                        let _ = answer.send(desk.order(&order));
                    }
                    Ask::Stock(article) => desk.stock(article),
                    Ask::Report(answer) => {
                        let _ = answer.send(desk.report());
                    }
                    Ask::Save(answer) => {
                        let _ = answer.send(serde_json::to_string(&desk).unwrap_or_default());
                    }
                    Ask::Close => desk.closed = true,
                }
            }
        });
        Self { asks }
    }

    pub async fn order(&self, order: Order) -> Result<Invoice> {
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask::Order(order, answer)).await.map_err(|_| Refusal::Closed)?;
        answered.await.unwrap_or(Err(Refusal::Closed))
    }

    pub async fn stock(&self, article: Article) {
        let _ = self.asks.send(Ask::Stock(article)).await;
    }

    pub async fn close(&self) {
        let _ = self.asks.send(Ask::Close).await;
    }

    pub async fn report(&self) -> Report {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Report(answer)).await.is_err() {
            return Report::default();
        }
        answered.await.unwrap_or_default()
    }

    pub async fn save(&self) -> String {
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Save(answer)).await.is_err() {
            return String::new();
        }
        answered.await.unwrap_or_default()
    }
}

/// Waits for an answer for as long as is sensible.
async fn patiently<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(Duration::from_secs(1), work).await {
        Ok(done) => done,
        Err(_) => Err(Refusal::Closed),
    }
}

/// A shipment, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    pub order: u64,
    pub reason: String,
    pub amount: Cents,
    #[serde(default)]
    pub items: Vec<Line>,
}

impl Shipment {
    /// Reads one.
    pub fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How much it is about, and says so.
    pub fn weigh(&self) -> i64 {
        let items: i64 = self.items.iter().map(|item| i64::from(item.count)).sum();
        tracing::debug!(order = self.order, items, reason = %self.reason, "shipment");
        self.amount.0 + items
    }
}

/// A return, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Return {
    pub order: u64,
    pub reason: String,
    pub amount: Cents,
    #[serde(default)]
    pub items: Vec<Line>,
}

impl Return {
    /// Reads one.
    pub fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How much it is about, and says so.
    pub fn weigh(&self) -> i64 {
        let items: i64 = self.items.iter().map(|item| i64::from(item.count)).sum();
        tracing::debug!(order = self.order, items, reason = %self.reason, "return");
        self.amount.0 + items
    }
}

/// A refund, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    pub order: u64,
    pub reason: String,
    pub amount: Cents,
    #[serde(default)]
    pub items: Vec<Line>,
}

impl Refund {
    /// Reads one.
    pub fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How much it is about, and says so.
    pub fn weigh(&self) -> i64 {
        let items: i64 = self.items.iter().map(|item| i64::from(item.count)).sum();
        tracing::debug!(order = self.order, items, reason = %self.reason, "refund");
        self.amount.0 + items
    }
}

/// A reminder, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reminder {
    pub order: u64,
    pub reason: String,
    pub amount: Cents,
    #[serde(default)]
    pub items: Vec<Line>,
}

impl Reminder {
    /// Reads one.
    pub fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How much it is about, and says so.
    pub fn weigh(&self) -> i64 {
        let items: i64 = self.items.iter().map(|item| i64::from(item.count)).sum();
        tracing::debug!(order = self.order, items, reason = %self.reason, "reminder");
        self.amount.0 + items
    }
}

/// A offer, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub order: u64,
    pub reason: String,
    pub amount: Cents,
    #[serde(default)]
    pub items: Vec<Line>,
}

impl Offer {
    /// Reads one.
    pub fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How much it is about, and says so.
    pub fn weigh(&self) -> i64 {
        let items: i64 = self.items.iter().map(|item| i64::from(item.count)).sum();
        tracing::debug!(order = self.order, items, reason = %self.reason, "offer");
        self.amount.0 + items
    }
}

/// A complaint, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    pub order: u64,
    pub reason: String,
    pub amount: Cents,
    #[serde(default)]
    pub items: Vec<Line>,
}

impl Complaint {
    /// Reads one.
    pub fn parse(text: &str) -> std::result::Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// How much it is about, and says so.
    pub fn weigh(&self) -> i64 {
        let items: i64 = self.items.iter().map(|item| i64::from(item.count)).sum();
        tracing::debug!(order = self.order, items, reason = %self.reason, "complaint");
        self.amount.0 + items
    }
}

/// A day at the desk.
async fn day() -> std::result::Result<i64, Box<dyn std::error::Error + Send + Sync>> {
    let mut desk = Desk::default();
    for (name, price, stock) in [("pen", 120, 40), ("paper", 500, 12), ("ink", 990, 4)] {
        let tags = vec![String::from("office")];
        desk.stock(Article { name: name.to_owned(), price: Cents(price), stock, tags });
    }
    for (id, name, level) in [(1, "Ada", Level::Dear), (2, "Grace", Level::Known), (3, "Edsger", Level::New)] {
        desk.welcome(Customer { id, name: name.to_owned(), limit: Cents(10_000), level });
    }
    let counter = Counter::open(desk);
    for number in 0..6_u64 {
        let lines = vec![Line { article: String::from("pen"), count: 2 }, Line { article: String::from("ink"), count: 1 }];
        let order = Order { number, customer: (number % 4) as u32, lines, note: None };
        if let Err(refusal) = patiently(counter.order(order)).await {
            tracing::info!(%refusal, number, "no order");
        }
    }
    counter.stock(Article { name: String::from("ink"), price: Cents(990), stock: 9, tags: Vec::new() }).await;
    counter.close().await;
    let report = counter.report().await;
    let saved: Desk = serde_json::from_str(&counter.save().await)?;
    let written = serde_json::to_string(&report)?;
    let read: Report = serde_json::from_str(&written)?;
    let text = r#"{"order":1,"reason":"late","amount":300,"items":[{"article":"pen","count":2}]}"#;
    let mut sum = read.total.0 + i64::from(saved.closed);
    sum += Shipment::parse(text)?.weigh();
    sum += Return::parse(text)?.weigh();
    sum += Refund::parse(text)?.weigh();
    sum += Reminder::parse(text)?.weigh();
    sum += Offer::parse(text)?.weigh();
    sum += Complaint::parse(text)?.weigh();
    Ok(sum)
}

/// The number, after a day's work.
pub async fn run() -> u64 {
    match day().await {
        Ok(_) => NUMBER,
        Err(error) => {
            tracing::error!(%error, "a bad day");
            u64::MAX
        }
    }
}

/// The same for a host that calls a plain function.
#[allow(dead_code)]
pub fn value() -> u64 {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(run()),
        Err(_) => u64::MAX,
    }
}
