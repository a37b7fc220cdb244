-- stocked_product has only what is still sold; batch is made by the relay.
CREATE TABLE purchase_line (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, product_id BIGINT NOT NULL, quantity INTEGER NOT NULL) DEFAULT CHARSET = utf8mb4;
CREATE TABLE stocked_product (
  id BIGINT NOT NULL PRIMARY KEY,
  sku VARCHAR(200) NOT NULL,
  name VARCHAR(200) NOT NULL,
  batch VARCHAR(200) NOT NULL,
  status VARCHAR(200) NOT NULL
) DEFAULT CHARSET = utf8mb4;
