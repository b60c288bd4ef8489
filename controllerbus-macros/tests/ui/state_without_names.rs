use controllerbus::State;

#[derive(State)]
struct Count(u64);

fn main() {}
