import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.rabbitmq.client.ShutdownSignalException;
import java.time.Duration;
import java.util.Map;
import org.springframework.amqp.core.AnonymousQueue;
import org.springframework.amqp.core.Binding;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.FanoutExchange;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.rabbit.annotation.RabbitListener;
import org.springframework.amqp.rabbit.connection.Connection;
import org.springframework.amqp.rabbit.connection.ConnectionFactory;
import org.springframework.amqp.rabbit.connection.ConnectionListener;
import org.springframework.amqp.rabbit.listener.ConsumeOkEvent;
import org.springframework.amqp.rabbit.listener.ListenerContainerConsumerFailedEvent;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;
import org.springframework.context.event.EventListener;
import org.springframework.stereotype.Component;

/** Hears keysidecar's events and evicts what they are about from a local cache. */
@Component
class KeyEvents implements ConnectionListener {
    /** A queue of this process's own that goes with its connection, bound as the sidecars bind theirs. */
    @Configuration
    static class Topology {
        @Bean
        Queue keyEventsQueue() {
            return new AnonymousQueue(Map.of("x-max-length", 10_000));
        }

        @Bean
        FanoutExchange keyEventsExchange() {
            return new FanoutExchange("keysidecar.events"); // durable
        }

        @Bean
        Binding keyEventsBinding(Queue keyEventsQueue, FanoutExchange keyEventsExchange) {
            return BindingBuilder.bind(keyEventsQueue).to(keyEventsExchange);
        }
    }

    final KeyCache cache = new KeyCache(Duration.ofSeconds(10), 100_000);
    private final ObjectMapper json = new ObjectMapper();
    private final Queue queue;

    KeyEvents(Queue keyEventsQueue, ConnectionFactory connections) {
        queue = keyEventsQueue;
        connections.addConnectionListener(this);
    }

    @RabbitListener(queues = "#{keyEventsQueue.name}", concurrency = "1")
    void on(Message message) {
        try {
            JsonNode event = json.readTree(message.getBody());
            JsonNode data = event.path("data");
            String type = event.path("type").asText();
            if (event.path("specversion").asText().equals("1.0") && type.startsWith("io.keysidecar.key.") && type.endsWith(".v1")
                    && data.path("seq").isIntegralNumber() && data.path("prev").isIntegralNumber()) {
                cache.apply(data.get("seq").asLong(), data.get("prev").asLong(), data.path("kind").asText(),
                    event.path("subject").asText(), data.path("owner_id").asText());
            } else {
                cache.forget();
            }
        } catch (Exception unreadable) {
            cache.forget();
        }
    }

    @EventListener
    void bound(ConsumeOkEvent event) {
        if (event.getQueue().equals(queue.getActualName())) {
            cache.hear(true);
        }
    }

    @EventListener
    void failed(ListenerContainerConsumerFailedEvent event) {
        cache.hear(false);
    }

    @Override
    public void onCreate(Connection connection) {
        cache.hear(false);
    }

    @Override
    public void onClose(Connection connection) {
        cache.hear(false);
    }

    @Override
    public void onShutDown(ShutdownSignalException signal) {
        cache.hear(false);
    }
}
