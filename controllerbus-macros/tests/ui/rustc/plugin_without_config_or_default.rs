use controllerbus::prelude::*;

struct Lamp {
    watts: u32,
}

#[hot_plugin(id = "test/lamp", version = "1.0.0")]
impl Controller for Lamp {
    async fn health(&self) -> Result<()> {
        if self.watts > 0 { Ok(()) } else { Err(Error::msg("it is off")) }
    }
}

fn main() {}
