// Watermill's forwarder, as its documentation sets it up: from its table in PostgreSQL to Kafka.
//
// `forwarder init` makes its tables, `forwarder` forwards until it is killed.
package main

import (
	"context"
	stdsql "database/sql"
	"log"
	"os"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/lib/pq"
)

const table = "outbox"

func main() {
	database, err := stdsql.Open("postgres", os.Getenv("DATABASE_URL"))
	must(err)
	subscriber, err := sql.NewSubscriber(sql.BeginnerFromStdSQL(database), sql.SubscriberConfig{
		SchemaAdapter:  sql.DefaultPostgreSQLSchema{SubscribeBatchSize: 1000},
		OffsetsAdapter: sql.DefaultPostgreSQLOffsetsAdapter{},
		PollInterval:   10 * time.Millisecond,
	}, watermill.NopLogger{})
	must(err)
	if len(os.Args) > 1 {
		must(subscriber.SubscribeInitialize(table))
		return
	}

	producer := kafka.DefaultSaramaSyncPublisherConfig()
	producer.Version = sarama.V2_8_0_0
	producer.Producer.RequiredAcks = sarama.WaitForAll
	producer.Producer.Idempotent = true
	producer.Net.MaxOpenRequests = 1
	publisher, err := kafka.NewPublisher(kafka.PublisherConfig{
		Brokers: []string{os.Getenv("BROKERS")},
		Marshaler: kafka.NewWithPartitioningMarshaler(func(_ string, m *message.Message) (string, error) {
			return m.Metadata.Get("ce_subject"), nil
		}),
		OverwriteSaramaConfig: producer,
	}, watermill.NopLogger{})
	must(err)
	forwards, err := forwarder.NewForwarder(subscriber, publisher, watermill.NopLogger{}, forwarder.Config{
		ForwarderTopic: table,
	})
	must(err)
	must(forwards.Run(context.Background()))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
