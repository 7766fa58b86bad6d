"""Fashion-MNIST: 70,000 articles of clothing, 28 x 28 pixels (Xiao, Rasul & Vollgraf, 2017)."""

from .mnist import IdxImages, served

FASHION_MNIST = IdxImages(
    name="fashion_mnist",
    title="Fashion-MNIST",
    sources=(
        served(
            "fashion_mnist",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
)
