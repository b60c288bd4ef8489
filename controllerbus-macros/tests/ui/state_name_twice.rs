use controllerbus::State;

#[derive(State)]
struct Count {
    hits: u64,
    #[state(was = "hits")]
    visits: u64,
}

fn main() {}
